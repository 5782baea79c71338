// "Listen" on the card of a running job: hears a take while it is made, in the studio's own player.
import { player } from "./player.js";
import { onContent } from "./swaps.js";
import { readTake } from "./takes.js";
import { shorten } from "./wording.js";

const liveId = ({ jobId, variation }) => `live-${jobId}-${variation}`;

function readLive({ dataset }) {
  const { liveUrl, jobId, variation, title, duration, model, sampleRate } = dataset;
  return {
    id: liveId(dataset),
    live: true,
    url: liveUrl,
    sampleRate: Number(sampleRate),
    jobId,
    variation,
    title,
    duration: Number(duration),
    model,
    facts: `${model} · being made`,
    path: "M0 30H400V34H0Z", // its waveform is not known yet: a line
    isFavourite: false,
  };
}

function showButtons() {
  for (const button of document.querySelectorAll("[data-listen]")) {
    const playing = player.take?.id === liveId(button.dataset) && player.isPlaying;
    const { number, title } = button.dataset;
    const what = number ? `take ${number} of ${shorten(title, 60)}` : shorten(title, 60);
    button.toggleAttribute("data-playing", playing);
    button.querySelector("span").textContent = `${playing ? "Pause" : "Listen"}${number ? ` ${number}` : ""}`;
    button.setAttribute("aria-label", playing ? `Pause ${what}` : `Listen to ${what} while it is made`);
  }
}

/** Once it was heard to its end, the player holds the finished take. */
function adoptTake() {
  if (!player.take?.live || !player.hasEnded) return;
  const { jobId, variation } = player.take;
  const row = document.querySelector(`[data-take][data-job-id="${CSS.escape(jobId)}"][data-variation="${CSS.escape(variation)}"]`);
  if (row) player.load(readTake(row));
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-listen]");
  if (button) player.toggle(readLive(button));
});

document.addEventListener("player:change", showButtons);
document.addEventListener("player:change", () => queueMicrotask(adoptTake));
onContent(() => {
  showButtons();
  adoptTake();
});
