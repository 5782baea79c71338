// What a morph must leave alone: state that lives in the page and that the server cannot know.
// Knows attribute names only, no widget.
const PAGE_STATE = new Set([
  "style", // custom properties set through the CSSOM: played part, filled part
  "data-current",
  "data-playing",
  "data-collapsed",
  "data-open",
  "data-copied",
  "data-up",
]);

function keepAttribute(name, node) {
  if (PAGE_STATE.has(name)) return false;
  // What somebody opened stays open; `open` from the server may still open what is closed.
  if (name === "open" && node.hasAttribute("open")) return false;
  return true;
}

function keepNode(oldNode, newNode) {
  const key = oldNode instanceof Element ? oldNode.getAttribute("data-keep") : null;
  return !(key && newNode instanceof Element && newNode.getAttribute("data-keep") === key);
}

if (window.Idiomorph) {
  Object.assign(window.Idiomorph.defaults, { ignoreActiveValue: true });
  Object.assign(window.Idiomorph.defaults.callbacks, { beforeAttributeUpdated: keepAttribute, beforeNodeMorphed: keepNode });
}
