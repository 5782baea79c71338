// Figures as people read them; the same words as gated_configs/wording.py says on the server.
const THIN = "\u202f";

/** 80 -> "1:20" */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(Number.isFinite(seconds) ? seconds : 0));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** 4.1 -> "4.1 s", 80 -> "1 min 20 s" */
export function spokenSeconds(seconds) {
  if (seconds < 9.95) return `${plainNumber(Math.round(seconds * 10) / 10)}${THIN}s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole}${THIN}s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}${THIN}min${whole % 60 ? ` ${whole % 60}${THIN}s` : ""}`;
  const rest = minutes % 60;
  return `${Math.floor(minutes / 60)}${THIN}h${rest ? ` ${rest}${THIN}min` : ""}`;
}

/** An estimate says no more than it knows: 43 -> "45 s", 137 -> "2 min 20 s" */
export function roughSeconds(seconds) {
  if (seconds < 10) return spokenSeconds(Math.max(1, Math.round(seconds)));
  if (seconds < 60) return spokenSeconds(Math.round(seconds / 5) * 5);
  if (seconds < 600) return spokenSeconds(Math.round(seconds / 10) * 10);
  return spokenSeconds(Math.round(seconds / 60) * 60);
}

export function plainNumber(value) {
  return String(Number(value.toFixed(3)));
}

export function shorten(text, length) {
  return text.length > length ? `${text.slice(0, length - 1).trimEnd()}…` : text;
}

/** 4200000 -> "4.2 MB", as gated_configs/wording.py says it: powers of a thousand. */
export function spokenBytes(bytes) {
  if (bytes < 1000) return `${bytes}${THIN}bytes`;
  const units = ["kB", "MB", "GB"];
  let value = bytes / 1000;
  while (value >= 999.5 && units.length > 1) {
    value /= 1000;
    units.shift();
  }
  return `${value < 9.95 ? plainNumber(Math.round(value * 10) / 10) : Math.round(value)}${THIN}${units[0]}`;
}
