// The clip that a take starts from: a sound file dropped or chosen, how far it is on its way, and its own small player.
// The server checks everything; only the size is looked at here, so that nobody waits for a refusal.
import { player } from "./player.js";
import { announce } from "./toasts.js";
import { spokenBytes } from "./wording.js";

const theInput = () => document.querySelector("[data-clip-file]");
const part = (name) => document.querySelector(`[data-clip-${name}]`);

function refuse(sentence) {
  const hint = part("hint");
  hint.className = "error";
  hint.textContent = sentence;
  theInput().setAttribute("aria-invalid", "true");
  announce(sentence);
}

function tooLarge(input) {
  const [file] = input.files;
  const most = Number(input.dataset.maxBytes);
  return file?.size > most ? `${file.name} has ${spokenBytes(file.size)}, and the limit is ${spokenBytes(most)}. Send a part of it, or FLAC or MP3.` : "";
}

function dropZone(event) {
  return event.dataTransfer?.types.includes("Files") && theInput() ? part("drop") : null;
}

// The whole page takes the file: nobody has to aim, and a miss does not leave the studio for the file.
document.addEventListener("dragover", (event) => {
  const zone = dropZone(event);
  if (!zone) return;
  event.preventDefault();
  zone.setAttribute("data-over", "");
});

document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) part("drop")?.removeAttribute("data-over");
});

document.addEventListener("drop", (event) => {
  const zone = dropZone(event);
  if (!zone) return;
  event.preventDefault();
  zone.removeAttribute("data-over");
  if (event.dataTransfer.files.length > 1) {
    refuse("That is more than one file. Drop one sound file at a time.");
    return;
  }
  const input = theInput();
  input.files = event.dataTransfer.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
});

document.addEventListener("htmx:beforeRequest", (event) => {
  const input = event.detail.elt;
  if (!input?.matches?.("[data-clip-file]")) return;
  const sentence = tooLarge(input);
  if (sentence || !input.files.length) {
    event.preventDefault();
    input.value = ""; // the same file may be chosen again
    if (sentence) refuse(sentence);
    return;
  }
  part("line").textContent = "Uploading";
  announce("Uploading");
});

document.addEventListener("htmx:xhr:progress", (event) => {
  if (!event.target.matches?.("[data-clip-file]") || !event.detail.lengthComputable) return;
  const { loaded, total } = event.detail;
  part("line").textContent = loaded < total ? `Uploading · ${Math.floor((100 * loaded) / total)}%` : "Reading the file";
});

document.addEventListener("htmx:afterRequest", (event) => {
  const { requestConfig, successful } = event.detail;
  const pressed = requestConfig?.elt;
  if (pressed?.matches?.("[data-clip-remove]")) theInput()?.focus();
  if (!pressed?.matches?.("[data-clip-file]")) return;
  const chosen = document.querySelector("[data-clip-field] [name='continue_from_seconds']");
  if (successful && chosen) {
    announce(`${chosen.labels[0].textContent} ${chosen.value} s.`);
    chosen.focus();
  } else if (theInput()) {
    // Refused with a notice: what stood in the field before.
    if (theInput() === pressed) {
      pressed.value = "";
      part("line").textContent = "Start from a clip: drop or choose a file";
    }
    theInput().focus();
  }
});

// One sound at a time.
document.addEventListener(
  "play",
  (event) => {
    if (event.target.matches?.("[data-clip-audio]") && player.isPlaying) player.toggle();
  },
  true,
);
document.addEventListener("player:change", () => {
  if (player.isPlaying) part("audio")?.pause();
});
