// Importing an adapter: a zip dropped or chosen, how far it is on its way, and what went wrong, in place.
// The server checks everything; only the size is looked at here, so that nobody waits for a refusal.
import { onContent } from "./swaps.js";
import { announce } from "./toasts.js";
import { spokenBytes } from "./wording.js";

const theForm = () => document.querySelector("[data-import-form]");
const part = (form, name) => form.querySelector(`[data-import-${name}]`);

function refuse(form, sentence) {
  const error = part(form, "error");
  error.textContent = sentence;
  error.hidden = !sentence;
  if (sentence) announce(sentence);
}

function showFile(form) {
  const [file] = part(form, "file").files;
  part(form, "drop").toggleAttribute("data-filled", Boolean(file));
  part(form, "chosen").textContent = file ? `${file.name} · ${spokenBytes(file.size)}` : "";
}

function tooLarge(form) {
  const input = part(form, "file");
  const most = Number(input.dataset.maxBytes);
  const [file] = input.files;
  if (!file || !(file.size > most)) return "";
  return `${file.name} has ${spokenBytes(file.size)}, and the limit is ${spokenBytes(most)}. An adapter is usually much smaller: look whether it holds the whole model.`;
}

const sendsFile = (form) => form.elements.namedItem("source").value === "zip";

function showProgress(form, sent, total) {
  const progress = part(form, "progress");
  const bar = progress.querySelector("progress");
  const line = part(form, "line");
  progress.hidden = false;
  if (total > 0 && sent < total) {
    bar.max = total;
    bar.value = sent;
    line.textContent = `Uploading · ${spokenBytes(sent)} of ${spokenBytes(total)} · ${Math.floor((100 * sent) / total)}%`;
  } else {
    bar.removeAttribute("value");
    line.textContent = sendsFile(form) ? "Uploaded. Checking the adapter" : "Reading the adapter";
  }
}

function endProgress(form) {
  part(form, "progress").hidden = true;
  form.removeAttribute("data-busy");
}

document.addEventListener("change", (event) => {
  const form = event.target.closest?.("[data-import-form]");
  if (!form) return;
  if (event.target.matches("[data-import-file]")) {
    showFile(form);
    refuse(form, tooLarge(form));
  } else if (event.target.name === "source") {
    refuse(form, "");
  }
});

function dropZone(event) {
  const isFiles = event.dataTransfer?.types.includes("Files");
  const form = isFiles ? theForm() : null;
  return form && !form.hasAttribute("data-busy") ? form : null;
}

// The whole page takes the file: nobody has to aim, and a miss does not leave the studio for the file.
document.addEventListener("dragover", (event) => {
  const form = dropZone(event);
  if (!form) return;
  event.preventDefault();
  part(form, "drop").setAttribute("data-over", "");
});

document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null && theForm()) part(theForm(), "drop").removeAttribute("data-over");
});

document.addEventListener("drop", (event) => {
  const form = dropZone(event);
  if (!form) return;
  event.preventDefault();
  part(form, "drop").removeAttribute("data-over");
  const input = part(form, "file");
  form.querySelector("input[name='source'][value='zip']").checked = true;
  if (event.dataTransfer.files.length > 1) {
    refuse(form, "That is more than one file. Drop one zip at a time.");
    return;
  }
  input.files = event.dataTransfer.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
});

document.addEventListener("click", (event) => {
  if (event.target.closest("[data-import-cancel]")) window.htmx.trigger(theForm(), "htmx:abort");
});

const isImport = (event) => event.detail.requestConfig?.elt?.matches?.("[data-import-form]") || event.detail.elt?.matches?.("[data-import-form]");

document.addEventListener("htmx:beforeRequest", (event) => {
  if (!isImport(event)) return;
  const form = theForm();
  const sentence = sendsFile(form) ? tooLarge(form) : "";
  if (sentence) {
    event.preventDefault();
    refuse(form, sentence);
    return;
  }
  refuse(form, "");
  form.setAttribute("data-busy", "");
  if (!sendsFile(form)) showProgress(form, 1, 1);
});

document.addEventListener("htmx:xhr:progress", (event) => {
  const form = theForm();
  if (!form?.hasAttribute("data-busy") || event.target !== form || !sendsFile(form)) return;
  if (event.detail.lengthComputable) showProgress(form, event.detail.loaded, event.detail.total);
});

// Upload and answer speak through the same event; once everything is sent, what is left is the server's work.
document.addEventListener("htmx:xhr:loadend", (event) => {
  const form = theForm();
  if (form?.hasAttribute("data-busy") && event.target === form && sendsFile(form)) showProgress(form, 1, 1);
});

document.addEventListener("htmx:afterRequest", (event) => {
  const form = theForm();
  if (!form || !isImport(event)) return;
  endProgress(form);
  const { xhr } = event.detail;
  if (xhr.status === 413) {
    let sentence = "The upload is larger than this studio takes in.";
    try {
      sentence = JSON.parse(xhr.responseText).error ?? sentence;
    } catch {
      // A proxy in front may refuse in words of its own.
    }
    refuse(form, sentence);
  } else if (xhr.status === 400) {
    (form.querySelector("[aria-invalid='true']") ?? part(form, "error")).focus();
  }
});

for (const name of ["htmx:sendError", "htmx:sendAbort", "htmx:timeout"]) {
  document.addEventListener(name, () => theForm() && endProgress(theForm()));
}

onContent(() => {
  const form = theForm();
  if (form) showFile(form);
});
