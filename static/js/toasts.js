// Notices at the corner: they leave by themselves, wait while somebody reads or reaches for them, and carry undo.
import { onContent } from "./swaps.js";

const running = new WeakSet();

/** Show a sentence. `tone` is "bad" for something that failed. */
export function showToast(sentence, tone = "") {
  const region = document.getElementById("toasts");
  if (!region) return;
  const toast = document.createElement("div");
  toast.className = "toast";
  toast.dataset.toast = "";
  toast.dataset.seconds = tone === "bad" ? "10" : "4";
  if (tone) toast.dataset.tone = tone;
  toast.setAttribute("role", tone === "bad" ? "alert" : "status");
  const text = document.createElement("p");
  text.textContent = sentence;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "icon-button";
  button.dataset.toastClose = "";
  button.setAttribute("aria-label", "Close this notice");
  button.innerHTML = '<svg class="icon" aria-hidden="true"><use href="#i-close"/></svg>';
  toast.append(text, button);
  region.append(toast);
  start(toast);
}

export function announce(sentence) {
  const announcer = document.getElementById("announcer");
  if (announcer) announcer.textContent = sentence;
}

function start(toast) {
  if (running.has(toast)) return;
  running.add(toast);
  const total = (Number(toast.dataset.seconds) || 8) * 1000;
  let left = total;
  let last = performance.now();
  const timer = setInterval(() => {
    const now = performance.now();
    const waits = document.hidden || toast.matches(":hover, :focus-within");
    if (!waits) left -= now - last;
    last = now;
    toast.querySelector(".toast-bar")?.style.setProperty("--left", String(Math.max(0, left / total)));
    if (!toast.isConnected) clearInterval(timer);
    else if (left <= 0) {
      clearInterval(timer);
      toast.remove();
    }
  }, 100);
}

onContent(() => {
  for (const toast of document.querySelectorAll("[data-toast]")) start(toast);
});

document.addEventListener("click", (event) => {
  event.target.closest("[data-toast-close]")?.closest("[data-toast]")?.remove();
});

document.addEventListener("submit", (event) => {
  const form = event.target.closest("[data-undo-form]");
  if (!form) return;
  event.preventDefault();
  // The page may have changed since: put the row back where a list is shown, and only undo where none is.
  const list = document.getElementById("take-list");
  const context = list ? { target: list, swap: "afterbegin" } : { target: document.body, swap: "none" };
  window.htmx.ajax("POST", form.getAttribute("action"), context);
  form.closest("[data-toast]").remove();
});
