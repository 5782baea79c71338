// The list of adapters reads itself again when the server says that it may look different: another active model, a proof.
// The list keeps its own search and filter, which a push could not know.
import { onContent } from "./swaps.js";

let page = null; // the list this stamp was read on
let known = null;

onContent(() => {
  const stamp = document.querySelector("[data-adapters-stamp]");
  if (!stamp) return;
  const refresher = document.querySelector("[data-adapters-refresh]");
  const now = stamp.dataset.adaptersStamp;
  if (page === refresher && now !== known) {
    refresher.setAttribute("hx-get", location.pathname + location.search);
    window.htmx.process(refresher);
    window.htmx.trigger(refresher, "refresh");
  }
  page = refresher;
  known = now;
});

// Somebody searched meanwhile: what was asked for before no longer belongs on the page.
document.addEventListener("htmx:beforeSwap", (event) => {
  const { requestConfig, pathInfo } = event.detail;
  if (!requestConfig?.elt?.matches?.("[data-adapters-refresh]")) return;
  if (pathInfo.requestPath !== location.pathname + location.search) event.detail.shouldSwap = false;
});
