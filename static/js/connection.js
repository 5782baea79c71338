// Says quietly when the live connection is gone, and that it is being made again.
const PATIENCE_MS = 800; // A change of page closes one socket and opens the next.

let timer = null;

function show(lost) {
  const banner = document.querySelector("[data-offline]");
  if (!banner) return;
  banner.textContent = lost ? "Reconnecting…" : "";
  banner.hidden = !lost;
}

document.addEventListener("htmx:wsClose", () => {
  clearTimeout(timer);
  timer = setTimeout(() => show(true), PATIENCE_MS);
});

document.addEventListener("htmx:wsOpen", () => {
  clearTimeout(timer);
  show(false);
});

// The studio is usually on the same machine: half a minute of waiting would help nobody.
if (window.htmx) {
  window.htmx.config.wsReconnectDelay = (tries) => Math.min(5000, 400 * 2 ** tries) * (0.75 + Math.random() / 2);
}
