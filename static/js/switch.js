// The switch of a model on the settings page: a dialog with the plan, then the live status, which has its own place on
// the page and is only lent to the dialog. Pushes find it by its id wherever it is. Nothing here carries a switch on.
import { recall, remember } from "./remember.js";
import { onContent } from "./swaps.js";
import { announce } from "./toasts.js";

const theDialog = () => document.querySelector("[data-switch-dialog]");
const theStatus = () => document.querySelector("[data-switch-status]");
const bodyOf = (dialog) => dialog.querySelector("[data-switch-body]");

/** Switches that this page has seen under way: only they are worth an "it is ready". */
const watched = new Set();

/** Switches that were begun here in order to use an adapter: once ready, the form goes on by itself. */
const usedFor = new Map();

function finishUse(status) {
  const adapter = usedFor.get(status.dataset.switch);
  usedFor.delete(status.dataset.switch);
  remember("switch-dismissed", status.dataset.switch);
  status.hidden = true;
  theDialog()?.close();
  announce(status.querySelector("#switch-status-title")?.textContent.trim() ?? "");
  boxToFocus = `adapter-${adapter}-on`;
  focusBox();
}

/** The adapter that the switch was for, whose box may become usable only with what is pushed next. */
let boxToFocus = "";

function focusBox() {
  const box = boxToFocus ? document.getElementById(boxToFocus) : null;
  if (!box || box.disabled) return;
  boxToFocus = "";
  const now = document.activeElement;
  if (isNowhere(now) || now.id === "adapters-label" || box.closest("[data-adapter]").contains(now)) box.focus();
}

/** The focus goes to what holds the content: a morph leaves the focused element itself as it is. */
function label(dialog, id) {
  if (id) dialog.setAttribute("aria-labelledby", id);
  else dialog.removeAttribute("aria-labelledby");
  if (dialog.open) bodyOf(dialog).focus();
}

function lendStatus(dialog) {
  watched.add(theStatus().dataset.switch);
  bodyOf(dialog).replaceChildren(theStatus());
  refresh();
  label(dialog, "switch-status-title");
}

function refresh() {
  const status = theStatus();
  if (!status) return;
  const { state } = status.dataset;
  if (state === "running") watched.add(status.dataset.switch);
  const endedWell = state === "ready" || state === "cancelled";
  const dismissed = state !== "running" && recall("switch-dismissed") === status.dataset.switch;
  // Where models are only a means, an old failure is not worth a place on the page.
  const isQuiet = state === "failed" && status.closest("[data-quiet]") !== null;
  status.hidden = state === "none" || dismissed || ((endedWell || isQuiet) && !watched.has(status.dataset.switch));
  if (state === "ready" && usedFor.has(status.dataset.switch)) finishUse(status);
  const dialog = theDialog();
  if (!dialog?.open || !dialog.contains(status)) return;
  if (status.hidden) dialog.close();
  else if (isNowhere(document.activeElement)) bodyOf(dialog).focus(); // The button in use went away.
}

/** A dialog that closes keeps the focus until the page is drawn again, where what had it before is gone. */
const isNowhere = (element) => element === null || element === document.body || element.closest("dialog:not([open])") !== null;

function isOwn(event, selector) {
  return event.detail.requestConfig?.elt?.matches?.(selector) || event.detail.elt?.matches?.(selector);
}

document.addEventListener("htmx:beforeRequest", (event) => {
  const dialog = theDialog();
  if (!dialog || !isOwn(event, "[data-switch-open]")) return;
  bodyOf(dialog).replaceChildren();
  if (!dialog.open) dialog.showModal();
  label(dialog, "");
});

document.addEventListener("htmx:afterRequest", (event) => {
  const dialog = theDialog();
  if (!dialog?.open) return;
  const { xhr, successful } = event.detail;
  if (isOwn(event, "[data-switch-open]")) {
    if (successful) label(dialog, "switch-plan-title");
    else dialog.close(); // The reason is a notice, which a modal dialog would cover.
  } else if (isOwn(event, "[data-switch-start]")) {
    if (successful && xhr.getResponseHeader("HX-Reswap") !== "none") {
      const use = event.detail.requestConfig.elt.elements?.namedItem("use")?.value;
      if (use) usedFor.set(theStatus().dataset.switch, use);
      lendStatus(dialog);
    } else dialog.close();
  }
});

document.addEventListener("click", (event) => {
  if (event.target.closest("[data-dialog-close]")) event.target.closest("dialog")?.close();
  if (event.target.closest("[data-switch-dismiss]")) {
    remember("switch-dismissed", theStatus().dataset.switch);
    refresh();
    focusTable();
  }
});

document.addEventListener(
  "close",
  (event) => {
    if (!event.target.matches?.("[data-switch-dialog]")) return;
    const status = theStatus();
    if (event.target.contains(status)) {
      // Who closes a dialog that says "ready" has read it; a failure stays on the page.
      if (status.dataset.state === "ready" || status.dataset.state === "cancelled") remember("switch-dismissed", status.dataset.switch);
      document.querySelector("[data-switch-slot]").replaceChildren(status);
      refresh();
    }
    bodyOf(event.target).replaceChildren();
    focusTable();
  },
  true,
);

/** The button that opened the dialog may be gone: the table is where it was. */
function focusTable(options) {
  if (isNowhere(document.activeElement)) (document.getElementById("models-title") ?? document.getElementById("adapters-label"))?.focus(options);
}

// What has the focus in the table: of a model that becomes active the button goes away, whoever switched to it, and that
// may be told only after the dialog has given the focus back.
let focusedInTable = null;

document.addEventListener("focusin", ({ target }) => {
  focusedInTable = target.closest("#models") ? target : null;
});

function keepFocus() {
  if (!focusedInTable || focusedInTable.isConnected) return;
  focusedInTable = null;
  focusTable({ preventScroll: true });
}

let engineWas = null;

/** The engine changed: what the table says of loaded models may be old. The end of a switch pushes it anyway. */
function refreshModels() {
  const engine = document.getElementById("engine-chip");
  const { state } = engine.dataset;
  const is = `${state} ${engine.querySelector("[data-engine-memory]")?.textContent}`;
  const refresher = document.querySelector("[data-models-refresh]");
  if (refresher && engineWas !== null && is !== engineWas && state !== "switching") window.htmx.trigger(refresher, "refresh");
  engineWas = is;
}

onContent(refresh);
onContent(focusBox);
onContent(refreshModels);
onContent(keepFocus);
