// The studio form: sliders beside numbers, seed, examples, the button that says what it will do, folding on phones.
// It checks nothing for good: the server does, with the same sentences everywhere.
import { adapterLine, adapterReasons } from "./adapters.js";
import { fitAfterTyping, followLimits, forgetShortening, limits } from "./limits.js";
import { recall, remember } from "./remember.js";
import { onContent } from "./swaps.js";
import { plainNumber, roughSeconds, shorten } from "./wording.js";

const SEEDS = 2 ** 32;
const NARROW = window.matchMedia("(max-width: 959.98px)");

const theForm = () => document.querySelector("[data-studio-form]");
const field = (form, name) => form.elements.namedItem(name);
const numberIn = (form, name) => (field(form, name)?.value === "" ? NaN : Number(field(form, name)?.value));

function fill(slider) {
  const low = Number(slider.min);
  const share = (Number(slider.value) - low) / (Number(slider.max) - low);
  slider.style.setProperty("--filled", `${Math.min(1, Math.max(0, share)) * 100}%`);
}

function showLimits(form) {
  const seconds = numberIn(form, "duration_seconds");
  const { most: limit, warnFrom } = limits();
  const line = form.querySelector("[data-duration-warning]");
  const over = seconds > limit;
  const refused = form.querySelector("#id_duration_seconds_error");
  // A duration that was just shortened says so itself.
  const isShortened = !form.querySelector("[data-duration-note]").hidden;
  line.hidden = !(over || seconds >= warnFrom) || (over && refused !== null) || (isShortened && !over);
  line.toggleAttribute("data-over", over);
  line.textContent = over ? `Over the limit of ${plainNumber(limit)}\u202fs.` : `Close to the limit of ${plainNumber(limit)}\u202fs.`;
}

function showCounter(form) {
  const most = Number(form.dataset.maxCharacters);
  const used = [...field(form, "prompt").value].length;
  const counter = form.querySelector("[data-prompt-counter]");
  counter.textContent = used > most * 0.6 ? `${used} / ${most}` : "";
  counter.toggleAttribute("data-over", used > most);
}

function showButton(form) {
  const takes = Math.max(1, Math.round(numberIn(form, "variations")) || 1);
  const seconds = numberIn(form, "duration_seconds");
  const { cost } = limits();
  let label = takes === 1 ? "Generate a take" : `Generate ${takes} takes`;
  if (cost > 0 && seconds > 0) label += ` · about ${roughSeconds(cost * seconds * takes)}`;
  const target = form.querySelector("[data-generate-label]");
  if (target.textContent !== label) target.textContent = label;

  const reasons = [];
  if (!field(form, "prompt").value.trim()) reasons.push("Needs a prompt.");
  if (!(seconds > 0)) reasons.push("Needs a duration.");
  const unfit = adapterReasons();
  reasons.push(...unfit);
  const button = form.querySelector("[data-generate]");
  if (unfit.length) button.setAttribute("aria-disabled", "true");
  else button.removeAttribute("aria-disabled");
  const engine = document.querySelector(".engine")?.dataset.state;
  if (engine === "none") reasons.push("No engine is running: takes wait in the queue until one is.");
  else if (engine === "switching") reasons.push("The model is being switched: takes wait in the queue until it is ready.");
  const line = form.querySelector("[data-reasons]");
  if (line.textContent !== reasons.join(" ")) line.textContent = reasons.join(" ");
}

function showLine(form) {
  const prompt = field(form, "prompt").value.trim() || "New take";
  const seconds = numberIn(form, "duration_seconds");
  const parts = [shorten(prompt, 60), seconds > 0 ? `${plainNumber(seconds)}\u202fs` : "", limits().modelName, adapterLine()];
  form.querySelector("[data-form-line]").textContent = parts.filter(Boolean).join(" · ");
  const fine = [
    ["guidance", numberIn(form, "guidance_scale")],
    ["temp", numberIn(form, "temperature")],
    ["top-k", numberIn(form, "top_k")],
  ];
  form.querySelector("[data-fine-line]").textContent = fine
    .filter(([, value]) => Number.isFinite(value))
    .map(([name, value]) => `${name} ${plainNumber(value)}`)
    .join(" · ");
}

/** Bring everything that is derived from the fields up to date. */
function refresh() {
  const form = theForm();
  if (!form) return;
  followLimits(form);
  for (const slider of form.querySelectorAll("[data-slider-for]")) {
    const number = document.getElementById(slider.dataset.sliderFor);
    if (document.activeElement !== slider && number.value !== "") slider.value = number.value;
    fill(slider);
  }
  showLimits(form);
  showCounter(form);
  showButton(form);
  showLine(form);
}

function fold(form, folded) {
  form.toggleAttribute("data-collapsed", folded);
  form.querySelector("[data-form-expand]").setAttribute("aria-expanded", String(!folded));
}

const isBusy = () => document.querySelector(".job:is([data-state='queued'], [data-state='starting'], [data-state='running'], [data-state='cancelling'])") !== null;

let unfoldedByHand = false;

function foldWhileBusy() {
  const form = theForm();
  if (!form) return;
  if (!isBusy()) {
    unfoldedByHand = false;
    if (form.hasAttribute("data-collapsed")) fold(form, false);
  } else if (NARROW.matches && !unfoldedByHand && !form.contains(document.activeElement) && !form.querySelector("[aria-invalid='true']")) {
    fold(form, true);
  }
}

function setValue(input, value) {
  input.value = value;
  refresh();
}

document.addEventListener("input", (event) => {
  const form = theForm();
  if (!form?.contains(event.target)) return;
  const { sliderFor } = event.target.dataset;
  if (sliderFor) document.getElementById(sliderFor).value = plainNumber(Number(event.target.value));
  if (event.target.name === "duration_seconds" || sliderFor === "id_duration_seconds") forgetShortening(form);
  // A corrected field is no longer wrong; whether it is right, the server says.
  const corrected = event.target.closest("[data-field]");
  corrected?.querySelector("[aria-invalid]")?.removeAttribute("aria-invalid");
  corrected?.querySelector(".error")?.remove();
  refresh();
});

document.addEventListener("adapters:change", refresh);

document.addEventListener("focusout", (event) => {
  const form = theForm();
  if (form && event.target.name === "duration_seconds" && fitAfterTyping(form)) refresh();
});

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-play-when-ready]")) remember("play-when-ready", event.target.checked ? "yes" : null);
});

document.addEventListener("click", (event) => {
  const form = theForm();
  const pressed = event.target.closest("button");
  if (!form || !pressed) return;
  if (pressed.dataset.example !== undefined) {
    fold(form, false);
    setValue(field(form, "prompt"), pressed.dataset.example);
    if (pressed.dataset.exampleSubmit !== undefined) form.requestSubmit();
    else field(form, "prompt").focus();
  } else if (pressed.dataset.seedDice !== undefined) {
    setValue(field(form, "seed"), String(Math.floor(Math.random() * SEEDS)));
  } else if (pressed.dataset.seedReuse !== undefined) {
    setValue(field(form, "seed"), pressed.dataset.seedReuse);
  } else if (pressed.dataset.step !== undefined) {
    const number = pressed.closest("[data-stepper]").querySelector("input");
    const next = (Math.round(Number(number.value)) || 1) + Number(pressed.dataset.step);
    setValue(number, String(Math.min(Number(number.max), Math.max(Number(number.min), next))));
  } else if (pressed.dataset.formExpand !== undefined) {
    unfoldedByHand = true;
    fold(form, false);
    field(form, "prompt").focus();
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.isComposing) return;
  const form = theForm();
  if (!form || document.querySelector("dialog[open]")) return;
  event.preventDefault();
  form.requestSubmit();
});

document.addEventListener(
  "toggle",
  (event) => {
    if (event.target.matches?.("[data-fine]")) remember("fine-control", event.target.open ? "open" : null);
  },
  true,
);

document.addEventListener("htmx:afterRequest", (event) => {
  const form = theForm();
  if (!form || event.detail.requestConfig?.elt?.id !== form.id) return;
  if (event.detail.successful) {
    unfoldedByHand = false;
    if (NARROW.matches) {
      // Also takes the phone's keyboard away, so that the card is seen.
      if (form.contains(document.activeElement)) document.activeElement.blur();
      window.scrollTo({ top: 0 });
    }
    foldWhileBusy();
  } else {
    form.querySelector("[aria-invalid='true']")?.focus();
  }
});

let prepared = null;

onContent(() => {
  const form = theForm();
  if (form && form !== prepared) {
    prepared = form;
    form.querySelector("[data-play-when-ready]").checked = recall("play-when-ready") === "yes";
    if (recall("fine-control") === "open") form.querySelector("[data-fine]").open = true;
  }
  refresh();
  foldWhileBusy();
});
NARROW.addEventListener("change", foldWhileBusy);
