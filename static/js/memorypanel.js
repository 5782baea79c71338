// The panel that asks for a config.json: it takes the focus when it opens and gives it back, takes a file by drop or choice,
// and never loses a text: what was pasted is kept until it is saved, whatever becomes of the log-in or the page.
import { onContent } from "./swaps.js";
import { announce } from "./toasts.js";
import { spokenBytes } from "./wording.js";

const DRAFT = "musicgen.config-draft";

const thePanel = () => document.querySelector("[data-config-panel]");
const part = (panel, name) => panel.querySelector(`[data-config-${name}]`);
const isPanelForm = (element) => element?.matches?.("[data-config-form]") ?? false;

let opened = ""; // model of the panel that has had the focus already
let returnTo = null; // what opened the panel, where a person did and not a failed look-up
let isAnswered = false; // the server has just said what it thinks of a text
let label = ""; // what the button says while nothing is under way

function keepDraft(panel) {
  try {
    sessionStorage.setItem(DRAFT, JSON.stringify({ model: panel.dataset.model, text: part(panel, "text").value }));
  } catch {
    // Too large for the browser, or storage is forbidden: the field itself still has it.
  }
}

function draftOf(panel) {
  try {
    const draft = JSON.parse(sessionStorage.getItem(DRAFT) ?? "null");
    return draft?.model === panel.dataset.model ? draft.text : "";
  } catch {
    return "";
  }
}

function forgetDraft() {
  try {
    sessionStorage.removeItem(DRAFT);
  } catch {
    // There is none then.
  }
}

/** Reasons that this page knows by itself, in the place of the server's. */
function refuse(panel, ...sentences) {
  const place = part(panel, "errors");
  place.replaceChildren(...sentences.map((sentence) => Object.assign(document.createElement("p"), { textContent: sentence })));
  place.hidden = sentences.length === 0;
  if (sentences.length) part(panel, "text").setAttribute("aria-invalid", "true");
  else part(panel, "text").removeAttribute("aria-invalid");
}

function showSize(panel) {
  const text = part(panel, "text").value;
  const most = Number(part(panel, "text").dataset.maxBytes);
  const size = new Blob([text]).size;
  part(panel, "size").textContent = size ? `${spokenBytes(size)} of up to ${spokenBytes(most)}.` : `Up to ${spokenBytes(most)}.`;
}

async function takeFile(panel, files) {
  if (files.length > 1) {
    refuse(panel, "That is more than one file. Drop config.json alone.");
    return;
  }
  const [file] = files;
  const field = part(panel, "text");
  if (file.size > Number(field.dataset.maxBytes)) {
    refuse(panel, `${file.name} has ${spokenBytes(file.size)}, and a config.json has at most ${spokenBytes(Number(field.dataset.maxBytes))}. Look whether it is the weights.`);
    return;
  }
  refuse(panel);
  field.value = await file.text();
  part(panel, "file").value = "";
  showSize(panel);
  announce(`${file.name} is in the field.`);
  part(panel, "submit").focus();
}

function cancel(panel) {
  panel.remove();
  opened = "";
  (returnTo?.isConnected ? returnTo : document.getElementById("id_model")).focus();
  announce("Cancelled. What you asked for is as it was.");
}

const droppedOn = (event) => (event.dataTransfer?.types.includes("Files") ? thePanel() : null);

// The whole page takes the file: nobody has to aim, and a miss does not leave the studio for the file.
document.addEventListener("dragover", (event) => {
  const panel = droppedOn(event);
  if (!panel) return;
  event.preventDefault();
  part(panel, "drop").setAttribute("data-over", "");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null && thePanel()) part(thePanel(), "drop").removeAttribute("data-over");
});
document.addEventListener("drop", (event) => {
  const panel = droppedOn(event);
  if (!panel) return;
  event.preventDefault();
  part(panel, "drop").removeAttribute("data-over");
  takeFile(panel, event.dataTransfer.files);
});

document.addEventListener("change", (event) => {
  if (event.target.matches?.("[data-config-file]") && event.target.files.length) takeFile(thePanel(), event.target.files);
});

document.addEventListener("input", (event) => {
  if (!event.target.matches?.("[data-config-text]")) return;
  event.target.removeAttribute("aria-invalid");
  showSize(thePanel());
});

document.addEventListener("click", (event) => {
  const panel = thePanel();
  if (!panel || !event.target.closest("[data-config-cancel]")) return;
  event.preventDefault();
  forgetDraft();
  cancel(panel);
});

document.addEventListener("keydown", (event) => {
  const panel = thePanel();
  if (event.key === "Escape" && panel?.contains(event.target) && !event.defaultPrevented && !part(panel, "text").value) cancel(panel);
});

// A log-in that ended meanwhile: by way of the log-in page back to this very panel, with the text in it.
document.addEventListener("htmx:beforeOnLoad", (event) => {
  const { xhr, requestConfig } = event.detail;
  if (!isPanelForm(requestConfig?.elt) || xhr.status !== 401) return;
  event.preventDefault();
  location.assign(`/login/?next=${encodeURIComponent(thePanel().dataset.address)}`);
});

document.addEventListener("htmx:beforeRequest", (event) => {
  if (!isPanelForm(event.detail.requestConfig?.elt)) {
    const { elt } = event.detail;
    if (elt.closest?.("[data-memory]")) returnTo = elt.matches("[data-opens-panel]") ? elt : null;
    return;
  }
  const panel = thePanel();
  keepDraft(panel);
  panel.setAttribute("aria-busy", "true");
  label = part(panel, "submit").textContent;
  part(panel, "submit").textContent = "Checking";
});

document.addEventListener("htmx:beforeSwap", (event) => {
  if (isPanelForm(event.detail.requestConfig?.elt) && event.detail.shouldSwap) isAnswered = true;
});

document.addEventListener("htmx:afterRequest", (event) => {
  if (!isPanelForm(event.detail.requestConfig?.elt)) return;
  const { xhr } = event.detail;
  const panel = thePanel();
  if (!panel) return;
  panel.removeAttribute("aria-busy");
  // A morph leaves the words of the focused button alone.
  part(panel, "submit").textContent = label;
  if (xhr.status === 403 && !xhr.getResponseHeader("HX-Retarget")) {
    refuse(panel, "This page is too old to send anything. Load it again: your text is kept and comes back.");
  } else if (xhr.status === 413) {
    refuse(panel, "This is larger than a config.json may be. Look whether it is the weights.");
  } else if (!xhr.status) {
    refuse(panel, "The studio does not answer. Your text is still here: try again in a moment.");
  }
});

onContent(() => {
  const panel = thePanel();
  const answered = isAnswered; // Content also comes by the socket, while an answer is still on its way.
  isAnswered = false;
  if (!panel) {
    opened = "";
    if (!answered) return;
    // Saved, and what was asked for has gone on.
    forgetDraft();
    document.querySelector("[data-memory-headline]")?.focus();
    return;
  }
  if (opened === panel.dataset.model) {
    if (answered) part(panel, "text").focus();
    return;
  }
  if (answered) forgetDraft(); // The one before is saved; this is the next model's turn.
  opened = panel.dataset.model;
  const field = part(panel, "text");
  if (!field.value) field.value = draftOf(panel);
  showSize(panel);
  part(panel, "title").focus();
  announce(part(panel, "title").textContent.trim());
});
