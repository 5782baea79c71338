// Play when ready: only a take that has just finished, that was started on this page, and only into silence.
import { player } from "./player.js";
import { recall } from "./remember.js";
import { onContent } from "./swaps.js";
import { readTake } from "./takes.js";

let page = null; // the #live element: another one means another page
const started = new Set();
const seen = new Set();

document.addEventListener("htmx:afterRequest", (event) => {
  if (!event.detail.successful || !event.detail.requestConfig.elt.matches("[data-studio-form]")) return;
  const { submittedJob } = document.querySelector("[data-studio-form]")?.dataset ?? {};
  if (submittedJob) started.add(submittedJob);
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
    const heardAlready = player.take?.live && player.take.jobId === row.dataset.jobId;
    if (recall("play-when-ready") === "yes" && !player.isPlaying && !heardAlready) {
      player.load(readTake(row));
      player.play();
    }
  }
});
