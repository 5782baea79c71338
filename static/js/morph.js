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
  if (!(oldNode instanceof Element && newNode instanceof Element)) return true;
  const key = oldNode.getAttribute("data-keep");
  return !(key && newNode.getAttribute("data-keep") === key) && !isOlder(newNode, oldNode);
}

// What the socket brings comes in order, whatever the clock of the server says.
let isPushed = false;

for (const [name, is] of [["htmx:wsBeforeMessage", true], ["htmx:wsAfterMessage", false]]) {
  document.addEventListener(name, () => { isPushed = is; });
}

// An answer that the socket has overtaken would put back what was so before, and nothing would come to correct it.
function isOlder(node, other) {
  return !isPushed && Number(node.getAttribute("data-read-at")) < Number(other.getAttribute("data-read-at"));
}

if (window.Idiomorph) {
  Object.assign(window.Idiomorph.defaults, { ignoreActiveValue: true });
  Object.assign(window.Idiomorph.defaults.callbacks, { beforeAttributeUpdated: keepAttribute, beforeNodeMorphed: keepNode });
}
