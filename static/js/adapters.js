// Adapters of the studio's form: None, choosing, finding one among many, strengths. What was chosen outlives every new
// list the server sends: when another model becomes active a chosen one that no longer fits is kept, locked and counted.
import { onContent } from "./swaps.js";
import { announce } from "./toasts.js";
import { plainNumber } from "./wording.js";

const theGroup = () => document.querySelector("[data-adapters]");
const rowsOf = (group) => [...group.querySelectorAll("[data-adapter]")];
const boxOf = (row) => row.querySelector("input[type='checkbox']");
const strengthOf = (row) => row.querySelector("input[type='number']");

let form = null; // the form that `chosen` speaks of: another one brings its own choices
const chosen = new Map(); // adapter id -> strength as typed

function read(group) {
  chosen.clear();
  for (const row of rowsOf(group)) if (boxOf(row).checked) chosen.set(row.dataset.adapter, strengthOf(row).value);
}

/** Make the rows say what is chosen, whichever rows the server has just sent. */
function show(group) {
  const rows = rowsOf(group);
  const known = new Set(rows.map((row) => row.dataset.adapter));
  for (const id of [...chosen.keys()]) {
    if (known.has(id)) continue;
    chosen.delete(id);
    announce("A chosen adapter was deleted, so it is no longer chosen.");
  }
  for (const row of rows) {
    const isChosen = chosen.has(row.dataset.adapter);
    const isLocked = row.hasAttribute("data-locked");
    const box = boxOf(row);
    const strength = strengthOf(row);
    row.toggleAttribute("data-chosen", isChosen);
    box.checked = isChosen;
    // A locked one that is chosen can still be taken away.
    box.disabled = isLocked && !isChosen;
    if (isChosen && document.activeElement !== strength) strength.value = chosen.get(row.dataset.adapter);
    strength.readOnly = isLocked;
    const slider = row.querySelector("[data-slider-for]");
    if (slider) slider.disabled = isLocked;
  }
  const none = group.querySelector("[data-adapter-none]");
  if (none) none.checked = chosen.size === 0;
  filter(group);
  showOpener(group);
}

function showOpener(group) {
  const opener = group.querySelector("[data-adapters-open]");
  if (!opener) return;
  const isOpen = group.hasAttribute("data-open");
  opener.setAttribute("aria-expanded", String(isOpen));
  opener.textContent = isOpen ? "Done" : `Choose from ${opener.dataset.total}`;
}

function filter(group) {
  const field = group.querySelector("[data-adapters-filter]");
  const words = (field?.value ?? "").toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rowsOf(group)) {
    // By the beginnings of words: "1" finds "Take 12", and not every "v1.0".
    const theirs = row.dataset.words.split(" ");
    const fits = words.every((word) => theirs.some((own) => own.startsWith(word)));
    row.hidden = !fits && !row.hasAttribute("data-chosen");
    if (fits) shown += 1;
  }
  const nothing = group.querySelector("[data-adapters-nothing]");
  if (nothing) nothing.hidden = shown > 0;
  return words.length ? shown : null;
}

/** Why the button cannot start because of adapters; empty when they all fit. */
export function adapterReasons() {
  const group = theGroup();
  if (!group) return [];
  const unfit = rowsOf(group).filter((row) => chosen.has(row.dataset.adapter) && row.hasAttribute("data-locked"));
  if (unfit.length === 0) return [];
  const model = group.dataset.modelName || "the active model";
  const count = unfit.length === 1 && chosen.size === 1 ? "The chosen adapter does not" : `${unfit.length} of ${chosen.size} chosen adapters ${unfit.length === 1 ? "does" : "do"} not`;
  const each = unfit.map((row) => {
    const reason = row.dataset.reason.replace(/\.$/, "");
    return `${row.dataset.label}${reason.startsWith("Requires ") ? ` r${reason.slice(1)}` : `: ${reason}`}.`;
  });
  return [`${count} work with ${model}. ${each.join(" ")} Take ${unfit.length === 1 ? "it" : "them"} away or switch the model.`];
}

/** The chosen adapters in a few words, for the folded form. */
export function adapterLine() {
  const group = theGroup();
  if (!group) return "";
  return rowsOf(group)
    .filter((row) => chosen.has(row.dataset.adapter))
    .map((row) => `${row.dataset.label} ${plainNumber(Number(chosen.get(row.dataset.adapter)) || 0)}`)
    .join(" + ");
}

function changed(group) {
  show(group);
  group.dispatchEvent(new CustomEvent("adapters:change", { bubbles: true }));
}

/** Choose an adapter, locked or not. */
export function chooseAdapter(id) {
  const group = theGroup();
  const row = group && rowsOf(group).find((other) => other.dataset.adapter === id);
  if (!row) return;
  chosen.set(id, strengthOf(row).value);
  changed(group);
}

// In the capture phase: whoever listens to the form's own events reads what is chosen.
document.addEventListener(
  "input",
  (event) => {
    const group = event.target.closest?.("[data-adapters]");
    if (!group) return;
    if (event.target.matches("[data-adapters-filter]")) {
      const shown = filter(group);
      if (shown !== null) announce(shown === 1 ? "1 adapter" : `${shown} adapters`);
      return;
    }
    if (event.target.matches("[data-adapter-none]")) {
      chosen.clear(); // Unticking None alone would choose nothing: it stays.
      changed(group);
      return;
    }
    const row = event.target.closest("[data-adapter]");
    if (!row) return;
    if (event.target === boxOf(row)) {
      if (event.target.checked) chosen.set(row.dataset.adapter, strengthOf(row).value);
      else chosen.delete(row.dataset.adapter);
      // Where a locked one was taken away its box is out of reach now.
      if (!event.target.checked && row.hasAttribute("data-locked")) group.querySelector("[data-adapter-none]").focus();
      changed(group);
    } else if (chosen.has(row.dataset.adapter)) {
      chosen.set(row.dataset.adapter, event.target.matches("[data-slider-for]") ? plainNumber(Number(event.target.value)) : event.target.value);
    }
  },
  true,
);

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-adapters-open]");
  if (!opener) return;
  const group = opener.closest("[data-adapters]");
  const isOpen = group.toggleAttribute("data-open");
  const field = group.querySelector("[data-adapters-filter]");
  if (!isOpen) field.value = "";
  show(group);
  if (isOpen) field.focus();
});

document.addEventListener("keydown", (event) => {
  if (!event.target.matches?.("[data-adapters-filter]")) return;
  const group = event.target.closest("[data-adapters]");
  if (event.key === "Enter") {
    event.preventDefault(); // Enter looks for an adapter; it does not start a take.
    group.querySelector("[data-adapter]:not([hidden]) input[type='checkbox']:not(:disabled)")?.focus();
  } else if (event.key === "Escape" && event.target.value === "") {
    group.removeAttribute("data-open");
    show(group);
    group.querySelector("[data-adapters-open]").focus();
  }
});

// A form that cannot start is not sent: the reasons stand under the button, and the focus goes to the first of them.
document.addEventListener(
  "submit",
  (event) => {
    if (!event.target.matches("[data-studio-form]") || adapterReasons().length === 0) return;
    event.preventDefault();
    event.stopPropagation();
    const group = theGroup();
    boxOf(group.querySelector("[data-adapter][data-locked][data-chosen]")).focus();
    announce(adapterReasons().join(" "));
  },
  true,
);

// "Switch and use": the adapter is chosen as soon as the switch is under way, and becomes usable when it is done.
document.addEventListener("htmx:afterRequest", (event) => {
  const { elt } = event.detail.requestConfig ?? {};
  const use = elt?.matches?.("[data-switch-start]") && elt.elements.namedItem("use")?.value;
  if (use && event.detail.successful) chooseAdapter(use);
});

// What has the focus in the group, and in which row: a push may take it away, as it does with "Switch and use".
let focused = null;
let focusedRow = "";

document.addEventListener("focusin", (event) => {
  focused = event.target.closest("[data-adapters]") ? event.target : null;
  focusedRow = event.target.closest("[data-adapter]")?.id ?? "";
});

function keepFocus() {
  if (!focused || focused.isConnected || document.activeElement !== document.body) return;
  const row = document.getElementById(focusedRow);
  focused = null;
  (row ? boxOf(row) : document.getElementById("adapters-label"))?.focus();
}

onContent(() => {
  const group = theGroup();
  if (!group) return;
  const now = group.closest("form");
  if (now !== form) {
    form = now;
    read(group);
  }
  show(group);
  keepFocus();
});
