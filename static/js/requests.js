// What becomes of answers that are not content: errors turn into a sentence, a lost log-in into the log-in page.
import { showToast } from "./toasts.js";

const NO_ANSWER = "The studio does not answer. Look whether it is still running, then try again.";

function isJson(xhr) {
  return (xhr.getResponseHeader("Content-Type") ?? "").includes("json");
}

function sentenceOf(xhr) {
  if (isJson(xhr)) {
    try {
      const { error } = JSON.parse(xhr.responseText);
      if (error) return error;
    } catch {
      // Falls through to the sentence for the status.
    }
  }
  if (xhr.status === 403) return "This is not open to you. Load the page again and try once more.";
  if (xhr.status === 404) return "It is no longer there. Load the page again to see what is.";
  if (xhr.status >= 500) return `The studio made a mistake (${xhr.status}). Its log says what went wrong.`;
  return `The studio refused this (${xhr.status}).`;
}

document.addEventListener("htmx:beforeSwap", (event) => {
  const { xhr } = event.detail;
  const path = xhr.responseURL ? new URL(xhr.responseURL).pathname : "";
  if (path === "/login/") {
    event.detail.shouldSwap = false;
    location.assign(`/login/?next=${encodeURIComponent(location.pathname + location.search)}`);
  } else if ((xhr.status === 400 || xhr.status === 409) && isJson(xhr)) {
    event.detail.shouldSwap = false;
  } else if (xhr.status >= 400 && xhr.getResponseHeader("HX-Retarget")) {
    // A refusal that names its own place on the page stands there, whatever its status.
    event.detail.shouldSwap = true;
    event.detail.isError = false;
  }
});

document.addEventListener("htmx:responseError", (event) => {
  const { xhr } = event.detail;
  // A refused form comes back as the form, with the sentence at its field; a refused verb as a notice.
  if ((xhr.status === 400 || xhr.status === 409) && !isJson(xhr)) return;
  if (xhr.status === 413 && event.detail.requestConfig?.elt?.matches?.("[data-import-form]")) return; // It says so itself.
  showToast(sentenceOf(xhr), "bad");
});

document.addEventListener("htmx:sendError", () => showToast(NO_ANSWER, "bad"));
document.addEventListener("htmx:timeout", () => showToast(NO_ANSWER, "bad"));
