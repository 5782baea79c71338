// Keeps the top bar true to the page: it stays in place while what is inside <main> changes.
import { onContent } from "./swaps.js";
import { announce } from "./toasts.js";

let shown = document.getElementById("live")?.dataset.nav;
let results = document.querySelector("[data-announce]")?.textContent;

onContent(() => {
  const page = document.getElementById("live")?.dataset.nav;
  if (page !== undefined && page !== shown) {
    shown = page;
    announce(document.title);
    for (const link of document.querySelectorAll("[data-pages] a")) {
      if (link.dataset.page === page) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }
  const found = document.querySelector("[data-announce]")?.textContent;
  if (found !== results) {
    results = found;
    if (found) announce(found);
  }
});
