// The clips that a take starts from and follows: a sound file dropped or chosen, how far it is on its way, and its player.
// The server checks everything; only the size is looked at here, so that nobody waits for a refusal.
import { player } from "./player.js";
import { announce } from "./toasts.js";
import { spokenBytes } from "./wording.js";

const fieldOf = (element) => element.closest("[data-clip-field]");
const part = (field, name) => field?.querySelector(`[data-clip-${name}]`);

function refuse(input, sentence) {
  const hint = part(fieldOf(input), "hint");
  hint.className = "error";
  hint.textContent = sentence;
  input.setAttribute("aria-invalid", "true");
  announce(sentence);
}

function tooLarge(input) {
  const [file] = input.files;
  const most = Number(input.dataset.maxBytes);
  return file?.size > most ? `${file.name} has ${spokenBytes(file.size)}, and the limit is ${spokenBytes(most)}. Send a part of it, or FLAC or MP3.` : "";
}

/** The zone that a file is over, or the first that can take it. */
function dropZone(event) {
  if (!event.dataTransfer?.types.includes("Files")) return null;
  return event.target.closest?.("[data-clip-drop]") ?? document.querySelector("[data-clip-drop]:has(:enabled)");
}

function mark(over) {
  for (const zone of document.querySelectorAll("[data-clip-drop]")) zone.toggleAttribute("data-over", zone === over);
}

// The whole page takes the file: nobody has to aim, and a miss does not leave the studio for the file.
document.addEventListener("dragover", (event) => {
  const zone = dropZone(event);
  if (!zone) return;
  event.preventDefault();
  mark(zone);
});

document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) mark(null);
});

document.addEventListener("drop", (event) => {
  const zone = dropZone(event);
  if (!zone) return;
  event.preventDefault();
  mark(null);
  const input = zone.querySelector("[data-clip-file]");
  if (event.dataTransfer.files.length > 1) {
    refuse(input, "That is more than one file. Drop one sound file at a time.");
    return;
  }
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
    if (sentence) refuse(input, sentence);
    return;
  }
  part(fieldOf(input), "line").textContent = "Uploading";
  announce("Uploading");
});

document.addEventListener("htmx:xhr:progress", (event) => {
  if (!event.target.matches?.("[data-clip-file]") || !event.detail.lengthComputable) return;
  const { loaded, total } = event.detail;
  part(fieldOf(event.target), "line").textContent = loaded < total ? `Uploading · ${Math.floor((100 * loaded) / total)}%` : "Reading the file";
});

document.addEventListener("htmx:afterRequest", (event) => {
  const { requestConfig, successful, target } = event.detail;
  const pressed = requestConfig?.elt;
  if (!pressed?.matches?.("[data-clip-file], [data-clip-remove]")) return;
  const field = document.getElementById(target.id); // the one that took its place
  const input = part(field, "file");
  const chosen = part(field, "chosen");
  if (successful && chosen) {
    const moment = field.querySelector("[name='continue_from_seconds']");
    announce(moment ? `${chosen.textContent} ${moment.value} s.` : `${chosen.textContent}.`);
    (moment ?? part(field, "remove")).focus();
  } else if (input) {
    // Refused with a notice: what stood in the field before.
    if (input === pressed) {
      input.value = "";
      part(field, "line").textContent = `${input.dataset.offer}: drop or choose a file`;
    }
    input.focus();
  }
});

// One sound at a time.
function pauseClips(but) {
  for (const sound of document.querySelectorAll("[data-clip-audio]")) if (sound !== but) sound.pause();
}

document.addEventListener(
  "play",
  (event) => {
    if (!event.target.matches?.("[data-clip-audio]")) return;
    if (player.isPlaying) player.toggle();
    pauseClips(event.target);
  },
  true,
);
document.addEventListener("player:change", () => {
  if (player.isPlaying) pauseClips();
});
