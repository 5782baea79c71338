// What the active model allows, as the server writes it into #model-limits. When another model becomes active while the
// form is open, the form follows and keeps what was typed; only a duration over the new limit is shortened, and says so.
import { announce } from "./toasts.js";
import { plainNumber } from "./wording.js";

/** The limits in force now. */
export function limits() {
  const said = document.getElementById("model-limits")?.dataset ?? {};
  const piece = Number(said.windowSeconds ?? Infinity);
  const most = mayExtend() ? Number(said.limitSeconds ?? Infinity) : piece;
  return {
    model: said.model ?? "",
    modelName: said.modelName ?? "",
    most,
    warnFrom: Number(said.warnSeconds ?? Infinity) + (most - piece || 0),
    recommended: Number(said.recommendedSeconds ?? NaN),
    cost: Number(said.cost ?? NaN),
    hint: said.hint,
    windowsLine: said.windowsLine ?? "",
    followsMelody: said.followsMelody !== undefined,
    licence: said.licence ?? "",
    licenceUrl: said.licenceUrl ?? "",
    isDemo: said.demo !== undefined,
  };
}

/** Whether a take may be longer than the model makes in one piece: asked for, or going on from another. */
function mayExtend() {
  const form = document.getElementById("studio-form");
  return Boolean(form?.querySelector("[name='continue_take'], [name='continue_clip']") || form?.elements.namedItem("extend")?.checked);
}

let followed = { form: null, model: "", most: NaN };
let shortened = null; // What was typed and what became of it, until somebody types again.
let waitsForBlur = false;

/** Bring the form up to the limits; `true` when its duration was changed. Call it after every swap. */
export function followLimits(form) {
  const now = limits();
  const isNew = followed.form !== form;
  const changed = followed.model !== now.model || followed.most !== now.most;
  followed = { form, model: now.model, most: now.most };
  if (isNew) {
    shortened = null;
    waitsForBlur = false;
    if (mayExtend()) show(form, now); // a browser that brings back a ticked box knows nothing of the scale
  } else if (changed) {
    show(form, now);
    return fitDuration(form, now);
  }
  return false;
}

function show(form, now) {
  form.querySelector("#id_duration_seconds_hint").textContent = now.hint ?? "No model is active.";
  const extend = form.querySelector("[data-extend-line]");
  if (extend) {
    extend.querySelector("span").textContent = now.windowsLine;
    extend.hidden = !now.windowsLine;
  }
  const melody = form.querySelector("[data-melody]");
  melody.hidden = melody.disabled = !now.followsMelody;
  if (Number.isFinite(now.most)) {
    form.querySelector("[data-slider-for='id_duration_seconds']").max = String(now.most);
    const at = (seconds) => `${Math.round((100 * seconds) / now.most)}%`;
    form.querySelector("[data-slider-scale] .scale-warn")?.setAttribute("x", at(now.warnFrom));
    form.querySelector("[data-slider-scale] .scale-tick")?.setAttribute("x", at(now.recommended));
  }
  const line = form.querySelector("[data-licence-line]");
  line.hidden = !now.licence;
  line.replaceChildren("Music from this model: ", now.licenceUrl ? linkTo(now.licenceUrl, now.licence) : now.licence);
  form.querySelector("[data-demo-line]").hidden = !now.isDemo;
}

function linkTo(address, words) {
  const link = document.createElement("a");
  link.href = address;
  link.rel = "noreferrer";
  link.target = "_blank";
  link.textContent = words;
  return link;
}

function fitDuration(form, now) {
  const input = form.elements.namedItem("duration_seconds");
  const note = form.querySelector("[data-duration-note]");
  if (input.value === "") return false;
  // Not under somebody's fingers: until they leave the field, the line above it says that this is over the limit.
  waitsForBlur = document.activeElement === input && Number(input.value) > now.most;
  if (waitsForBlur) return false;
  const before = Number(input.value);
  const wanted = shortened?.to === before ? shortened.from : before;
  const fitting = Math.min(wanted, now.most);
  shortened = fitting < wanted ? { from: wanted, to: fitting } : null;
  if (shortened) {
    note.textContent = `Shortened to ${plainNumber(fitting)}\u202fs, the limit of ${now.modelName}.`;
    announce(note.textContent);
  }
  note.hidden = !shortened;
  if (fitting === before) return false;
  input.value = plainNumber(fitting);
  const field = input.closest("[data-field]");
  input.removeAttribute("aria-invalid");
  field.querySelector(".error")?.remove();
  return true;
}

/** Somebody changes the duration: what was typed before no longer matters. */
export function forgetShortening(form) {
  shortened = null;
  form.querySelector("[data-duration-note]").hidden = true;
}

/** The field was left: `true` when it had to be shortened now. */
export function fitAfterTyping(form) {
  return waitsForBlur && fitDuration(form, limits());
}
