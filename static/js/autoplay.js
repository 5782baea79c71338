// Play when ready: only a take that has just finished, that was started on this page, and only into silence.
import { player } from "./player.js";
import { recall } from "./remember.js";
import { onContent } from "./swaps.js";
import { readTake } from "./takes.js";

let page = null; // the #live element: another one means another page
let before = new Set();
const started = new Set();
const seen = new Set();

const jobIds = () => [...document.querySelectorAll("[data-job]")].map((card) => card.id.replace("job-", ""));

document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.detail.elt.matches("[data-studio-form]")) before = new Set(jobIds());
});

document.addEventListener("htmx:afterRequest", (event) => {
  if (!event.detail.successful || !event.detail.elt.matches("[data-studio-form]")) return;
  for (const id of jobIds()) if (!before.has(id)) started.add(id);
});

onContent(() => {
  const live = document.getElementById("live");
  const arrived = live !== page;
  if (arrived) {
    page = live;
    started.clear();
  }
  for (const row of document.querySelectorAll("[data-take]")) {
    if (seen.has(row.dataset.takeId)) continue;
    seen.add(row.dataset.takeId);
    if (arrived || !started.has(row.dataset.jobId)) continue;
    if (recall("play-when-ready") === "yes" && !player.isPlaying) {
      player.load(readTake(row));
      player.play();
    }
  }
});
