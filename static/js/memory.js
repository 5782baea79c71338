// The memory page: options answer at once, a second press does nothing, and the wait says what it is for.
// Knows nothing of the panel that takes a config in; that is memorypanel.js.
import { onContent } from "./swaps.js";

const SOON_MS = 150; // a choice that was made
const TYPING_MS = 600; // a number that may go on
const NARROW = window.matchMedia("(max-width: 959.98px)");
const WAITING = [
  [200, "Looking the config up"],
  [2500, "Building the model from its config, without its weights"],
  [8000, "Still at it: the first answer of a large model takes longest"],
];

const thePage = () => document.querySelector("[data-memory]");
const theForm = () => document.querySelector("[data-memory-form]");
const isOfPage = (element) => element?.closest?.("[data-memory]") != null;

let live = null; // timer of an option that changed
let waits = []; // timers of the sentences while something is under way
let running = ""; // what is under way, so that the same is not asked twice
let pressed = null; // what to bring into view once there is an answer

const answered = () => document.querySelector("[data-memory-headline]") !== null;
const again = () => theForm()?.querySelector("[data-memory-again]");
const asText = (form, submitter) => new URLSearchParams(new FormData(form, submitter)).toString();

function repeatSoon(milliseconds) {
  clearTimeout(live);
  if (!answered()) return;
  // A click and not requestSubmit(): htmx 2.0 learns which button it was from its click.
  live = setTimeout(() => again()?.click(), milliseconds);
}

function showBusy(isBusy) {
  for (const timer of waits) clearTimeout(timer);
  waits = [];
  if (!isBusy) sayBusy("");
  else waits = WAITING.map(([milliseconds, sentence]) => setTimeout(() => sayBusy(sentence), milliseconds));
}

/** In the form, and in the panel that is being saved, where one is open. */
function sayBusy(sentence) {
  for (const place of document.querySelectorAll("[data-memory-busy]")) {
    place.hidden = !sentence;
    place.querySelector("[data-memory-busy-line]").textContent = sentence;
  }
}

// Before htmx hears of it.
document.addEventListener(
  "submit",
  (event) => {
    const form = event.target.closest?.("[data-memory-form]");
    if (!form) return;
    clearTimeout(live);
    const wanted = asText(form, event.submitter);
    if (running && running === wanted) {
      event.preventDefault();
      event.stopImmediatePropagation();
      return;
    }
    running = wanted;
    pressed = event.submitter?.matches("[data-memory-action]") ? event.submitter.value : null;
  },
  true,
);

document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing || !event.target.matches?.("[data-memory-model]")) return;
  event.preventDefault();
  again().click();
  pressed = "enter";
});

document.addEventListener("change", (event) => {
  if (event.target.form !== theForm() || !theForm()) return;
  if (event.target.matches("select")) repeatSoon(SOON_MS);
});

document.addEventListener("input", (event) => {
  const form = theForm();
  if (!form || event.target.form !== form || event.target.matches("select")) return;
  // A corrected field is no longer wrong; whether it is right, the server says.
  event.target.removeAttribute("aria-invalid");
  event.target.closest(".field")?.querySelector(".error")?.remove();
  if (!event.target.matches("[data-memory-model]")) repeatSoon(TYPING_MS);
});

document.addEventListener("click", (event) => {
  const form = theForm();
  const button = event.target.closest("[data-memory-step], [data-memory-set]");
  if (!form || !button) return;
  if (button.dataset.memorySet) {
    const field = form.elements.namedItem(button.dataset.memorySet);
    field.value = button.dataset.value;
    for (const other of form.querySelectorAll("[data-memory-set]")) other.setAttribute("aria-pressed", String(other === button));
  } else {
    const field = button.closest("[data-memory-stepper]").querySelector("input");
    field.value = String(Math.max(1, (Math.round(Number(field.value.replaceAll(",", ""))) || 1) + Number(button.dataset.memoryStep)));
  }
  repeatSoon(SOON_MS);
});

document.addEventListener("htmx:beforeRequest", (event) => {
  if (isOfPage(event.target)) showBusy(true);
});

for (const name of ["htmx:afterRequest", "htmx:sendAbort", "htmx:sendError"]) {
  document.addEventListener(name, (event) => {
    if (!isOfPage(event.detail.requestConfig?.elt ?? event.target)) return;
    if (name !== "htmx:sendAbort") running = "";
    showBusy(false);
  });
}

// The arrows go over the grid, so that the way past it is one press of Tab.
document.addEventListener("keydown", (event) => {
  const cell = event.target.closest?.("[data-heat-cell]");
  if (!cell) return;
  const column = cell.closest("td").cellIndex;
  const row = cell.closest("tr");
  const goals = {
    ArrowRight: row.cells[column + 1],
    ArrowLeft: row.cells[column - 1],
    ArrowDown: row.nextElementSibling?.cells[column],
    ArrowUp: row.previousElementSibling?.cells[column],
  };
  const goal = goals[event.key]?.querySelector("[data-heat-cell]");
  if (!goal) return;
  event.preventDefault();
  enter(cell.closest("[data-heat]"), goal);
  goal.focus();
});

function enter(heat, cell) {
  for (const other of heat.querySelectorAll("[data-heat-cell]")) other.tabIndex = other === cell ? 0 : -1;
}

onContent(() => {
  const heat = document.querySelector("[data-heat]");
  if (heat && !heat.contains(document.activeElement)) {
    enter(heat, heat.querySelector("td[data-chosen] [data-heat-cell]") ?? heat.querySelector("[data-heat-cell]"));
  }
  // Content also comes by the socket, while an answer is still on its way.
  if (pressed === null || running || !thePage()) return;
  const invalid = theForm().querySelector("[aria-invalid='true']");
  if (invalid) invalid.focus();
  else if (NARROW.matches && !document.querySelector("[data-config-panel]")) {
    document.querySelector("[data-memory-headline]")?.scrollIntoView({ block: "start" });
  }
  pressed = null;
});
