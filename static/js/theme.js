// The switch between the system's theme, light and dark.
import { recall, remember } from "./remember.js";

const ORDER = ["system", "light", "dark"];
const WORDS = { system: "Theme: follows the system", light: "Theme: light", dark: "Theme: dark" };

function show(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  for (const button of document.querySelectorAll("[data-theme-switch]")) {
    button.setAttribute("aria-label", WORDS[theme]);
    button.title = WORDS[theme];
  }
}

function current() {
  const theme = recall("theme");
  return ORDER.includes(theme) ? theme : "system";
}

document.addEventListener("click", (event) => {
  if (!event.target.closest("[data-theme-switch]")) return;
  const next = ORDER[(ORDER.indexOf(current()) + 1) % ORDER.length];
  remember("theme", next === "system" ? null : next);
  show(next);
});

window.addEventListener("storage", (event) => {
  if (event.key === "musicgen.theme") show(ORDER.includes(event.newValue) ? event.newValue : "system");
});

show(current());
