// Says quietly when the live connection is gone, and that it is being made again.
const PATIENCE_MS = 800; // A change of page closes one socket and opens the next.
const TOO_MANY_PAGES = 4429; // The server's code for a person's one socket too many.
const ASK_AGAIN_MS = [2000, 60000]; // Once soon, since a page that is loaded anew may overtake its own end; then at leisure.

const LOST = "Reconnecting…";
const ONE_TOO_MANY = "Many pages of yours are open. This one updates only when it is reloaded.";

let timer = null;
let next = null;
let refusals = 0;

function say(words) {
  const banner = document.querySelector("[data-offline]");
  if (!banner || banner.textContent === words) return;
  banner.textContent = words;
  banner.hidden = !words;
  banner.toggleAttribute("data-stays", words === ONE_TOO_MANY); // and so must not lie on what it stays above
}

// Pages in the background wait until somebody looks at them.
function askAgain(page, socket) {
  next = setTimeout(() => {
    if (!page.isConnected) return;
    if (document.hidden) askAgain(page, socket);
    else socket.reconnect();
  }, ASK_AGAIN_MS[Math.min(refusals++, 1)] * (0.75 + Math.random() / 2));
}

document.addEventListener("htmx:wsClose", ({ target, detail }) => {
  clearTimeout(timer);
  if (detail.event.code === TOO_MANY_PAGES && target.isConnected) {
    say(ONE_TOO_MANY);
    clearTimeout(next);
    askAgain(target, detail.socketWrapper);
  } else timer = setTimeout(say, PATIENCE_MS, LOST);
});

// The first words prove that the socket stays: one too many is opened, too, to be told so.
document.addEventListener("htmx:wsAfterMessage", () => {
  clearTimeout(timer);
  refusals = 0;
  say("");
});

// The studio is usually on the same machine: half a minute of waiting would help nobody.
if (window.htmx) {
  window.htmx.config.wsReconnectDelay = (tries) => Math.min(5000, 400 * 2 ** tries) * (0.75 + Math.random() / 2);
}
