// One place that knows how content arrives: by a request, out of band, by the socket, by going back.
// Widgets ask to be told afterwards; several swaps in one turn are told once.
const listeners = new Set();
let pending = false;

function tell() {
  pending = false;
  for (const listener of listeners) listener();
}

function schedule() {
  if (pending) return;
  pending = true;
  queueMicrotask(tell);
}

for (const name of ["htmx:afterSwap", "htmx:oobAfterSwap", "htmx:wsAfterMessage", "htmx:historyRestore"]) {
  document.addEventListener(name, schedule);
}

/** Call `listener` now and after every swap. */
export function onContent(listener) {
  listeners.add(listener);
  listener();
}
