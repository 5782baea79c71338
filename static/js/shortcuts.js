// Single keys for the player while no field has focus. They can be turned off, for people who speak to their computer.
import { player } from "./player.js";
import { recall, remember } from "./remember.js";
import { playCompared, playNeighbour } from "./takes.js";

const FIELDS = "input, textarea, select, [contenteditable]";
const PRESSABLE = "button, a, summary, label";

const dialog = document.getElementById("shortcuts");
const box = document.querySelector("[data-single-keys]");
const isOn = () => recall("single-keys") !== "no";

if (box) {
  box.checked = isOn();
  box.addEventListener("change", () => remember("single-keys", box.checked ? null : "no"));
}

const actions = {
  k: () => player.toggle(),
  j: () => player.seek(player.position - 5),
  l: () => player.seek(player.position + 5),
  arrowleft: () => player.seek(player.position - 1),
  arrowright: () => player.seek(player.position + 1),
  f: () => player.toggleFavourite(),
  n: () => playNeighbour(1),
  p: () => playNeighbour(-1),
};

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (!isOn() || event.target.closest?.(FIELDS) || document.querySelector("dialog[open]")) return;
  if (event.key === "?") {
    event.preventDefault();
    dialog?.showModal();
    return;
  }
  if (event.key === " ") {
    // On a button or a link, Space already means something.
    if (event.target.closest?.(PRESSABLE) || !(player.take || document.querySelector("[data-take]"))) return;
    event.preventDefault();
    if (player.take) player.toggle();
    else playNeighbour(1);
    return;
  }
  if (["1", "2", "3"].includes(event.key) && playCompared(Number(event.key) - 1)) {
    event.preventDefault();
    return;
  }
  const action = actions[event.key.toLowerCase()];
  if (!action || (!player.take && !["n", "p"].includes(event.key.toLowerCase()))) return;
  event.preventDefault();
  action();
});
