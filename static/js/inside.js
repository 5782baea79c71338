// Keeps the activity page fresh while somebody looks at it; a hidden page asks for nothing.
const EVERY_MS = 4000;

function refresh() {
  const element = document.querySelector("[data-inside-refresh]");
  if (element && !document.hidden) window.htmx?.trigger(element, "refresh");
}

setInterval(refresh, EVERY_MS);
document.addEventListener("visibilitychange", refresh);
