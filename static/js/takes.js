// Take rows: play, seek, copy, rename, delete, and showing which of them is in the player.
import { soundOf } from "./compare.js";
import { player } from "./player.js";
import { onContent } from "./swaps.js";
import { announce, showToast } from "./toasts.js";
import { clock, shorten } from "./wording.js";

/** A row as the plain object that the player knows. */
export function readTake(row) {
  const { takeId, audioUrl, title, duration, model, seed, favouriteUrl, group, gainDb, facts } = row.dataset;
  return {
    id: takeId,
    url: soundOf(audioUrl),
    group,
    gain: gainDb ? 10 ** (Number(gainDb) / 20) : 1,
    title,
    duration: Number(duration),
    model,
    facts: facts ?? [model, seed ? `seed ${seed}` : ""].filter(Boolean).join(" · "),
    path: row.querySelector(".wave-shape path")?.getAttribute("d") ?? "",
    isFavourite: row.hasAttribute("data-favourite"),
    favouriteUrl,
    downloadUrl: row.querySelector("[download]")?.getAttribute("href") ?? audioUrl,
  };
}

const rows = () => [...document.querySelectorAll("[data-take]")];

/** Play the take `steps` rows below the one in the player (above, if negative). */
export function playNeighbour(steps) {
  const all = rows();
  const here = all.findIndex((row) => row.dataset.takeId === player.take?.id);
  const next = here < 0 ? all[0] : all[here + steps];
  if (!next) return;
  player.load(readTake(next));
  player.play();
  next.scrollIntoView({ block: "nearest" });
}

/** Play that take of the comparison on this page, from where another of it stands; false when there is none. */
export function playCompared(index) {
  const row = rows().filter((other) => other.dataset.group)[index];
  if (!row) return false;
  player.load(readTake(row));
  player.play();
  return true;
}

function showRows() {
  for (const row of rows()) {
    const current = row.dataset.takeId === player.take?.id;
    const playing = current && player.isPlaying;
    row.toggleAttribute("data-current", current);
    row.toggleAttribute("data-playing", playing);
    row.querySelector("[data-play]").setAttribute("aria-label", `${playing ? "Pause" : "Play"} ${shorten(row.dataset.title, 60)}`);
    if (current) player.setFavourite(row.hasAttribute("data-favourite"));
  }
}

function showPosition(seconds, share) {
  const row = document.getElementById(`take-${player.take?.id}`);
  if (!row) return;
  row.querySelector("[data-wave]").style.setProperty("--played", `${share * 100}%`);
  const seek = row.querySelector("[data-seek]");
  seek.value = String(seconds);
  seek.setAttribute("aria-valuetext", `${clock(seconds)} of ${clock(player.take.duration)}`);
}

async function copy(text) {
  // The clipboard needs a secure context; a studio reached over plain HTTP on the home network has none.
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  area.setAttribute("readonly", "");
  area.className = "visually-hidden";
  const back = document.activeElement;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  back?.focus();
  if (!done) throw new Error("copy refused");
}

function markCopied(button) {
  button.setAttribute("data-copied", "");
  setTimeout(() => button.removeAttribute("data-copied"), 1200);
  announce("Copied");
}

const restoredId = (xhr) => /\/takes\/(\d+)\/restore\/$/.exec(xhr.responseURL)?.[1];

/** Put a row that came back by undo where the order of creation wants it: newest first. */
function placeByAge(row) {
  const age = (element) => Date.parse(element.querySelector("time")?.dateTime ?? "");
  const older = [...row.parentElement.querySelectorAll("[data-take]")].find((other) => other !== row && age(other) < age(row));
  row.parentElement.insertBefore(row, older ?? null);
}

function afterDelete(row) {
  const neighbour = row.nextElementSibling ?? row.previousElementSibling;
  const goal = neighbour?.querySelector("[data-play]") ?? document.getElementById("main");
  return () => goal.focus({ preventScroll: true });
}

document.addEventListener("click", (event) => {
  const play = event.target.closest("[data-play]");
  if (play) player.toggle(readTake(play.closest("[data-take]")));
  const copies = event.target.closest("[data-copy]");
  if (copies) {
    copy(copies.dataset.copy).then(
      () => markCopied(copies),
      () => showToast("Copying was refused by the browser. Select the text and copy it by hand.", "bad"),
    );
  }
});

document.addEventListener("input", (event) => {
  if (!event.target.matches("[data-seek]")) return;
  const row = event.target.closest("[data-take]");
  const seconds = Number(event.target.value);
  if (player.take?.id !== row.dataset.takeId) {
    player.load(readTake(row));
    player.seek(seconds);
    player.play();
  } else {
    player.seek(seconds);
  }
});

// `step="any"` makes an arrow key move by a whole unit or by a hundredth, depending on the browser.
document.addEventListener("keydown", (event) => {
  if (!event.target.matches?.(".wave-seek") || event.altKey || event.ctrlKey || event.metaKey) return;
  const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -5, PageUp: 5 }[event.key];
  if (!step) return;
  event.preventDefault();
  const { target } = event;
  target.value = String(Number(target.value) + step * (event.shiftKey ? 5 : 1));
  target.dispatchEvent(new Event("input", { bubbles: true }));
});

document.addEventListener(
  "toggle",
  (event) => {
    if (!event.target.matches?.("[data-rename]") || !event.target.open) return;
    const input = event.target.querySelector("input[name='title']");
    input.focus();
    input.select();
  },
  true,
);

document.addEventListener("keydown", (event) => {
  const rename = event.key === "Escape" && event.target.closest?.("[data-rename][open]");
  if (!rename) return;
  rename.removeAttribute("open");
  rename.querySelector("summary").focus();
});

let focusAfterDelete = null;

document.addEventListener("htmx:beforeRequest", (event) => {
  const { elt } = event.detail;
  const row = elt.closest("[data-take]");
  focusAfterDelete = row && elt.matches("[data-delete-form]") ? afterDelete(row) : null;
});

document.addEventListener("htmx:afterRequest", (event) => {
  if (!event.detail.successful) return;
  // `detail.elt` is what is still in the page; the form of a deleted row is not.
  const { xhr } = event.detail;
  const { elt } = event.detail.requestConfig;
  if (elt.matches("[data-delete-form]")) {
    const row = elt.closest("[data-take]");
    if (player.take?.id === row?.dataset.takeId) player.close();
    row?.remove();
    focusAfterDelete?.();
  }
  const rename = elt.closest("[data-rename]");
  if (rename) {
    const live = document.getElementById(rename.id) ?? rename;
    live.removeAttribute("open");
    live.querySelector("summary")?.focus();
  }
  const restored = restoredId(xhr) && document.getElementById(`take-${restoredId(xhr)}`);
  if (restored) placeByAge(restored);
});

// The socket may have been faster than the answer: then the row is back already.
document.addEventListener("htmx:beforeSwap", (event) => {
  const id = restoredId(event.detail.xhr);
  if (id && document.getElementById(`take-${id}`)) event.detail.shouldSwap = false;
});

document.addEventListener("player:change", showRows);
document.addEventListener("player:position", (event) => showPosition(event.detail.seconds, event.detail.share));
onContent(() => {
  showRows();
  if (player.take) showPosition(player.position, player.take.duration > 0 ? player.position / player.take.duration : 0);
});
