// Dialogs whose body a link fetches: opened when the link is used, filled when the answer comes, empty again when closed.
// Without scripts the link is a page of its own.
const bodyOf = (dialog) => dialog.querySelector("[data-load-body]");

function opened(event) {
  const opener = event.detail.requestConfig?.elt ?? event.detail.elt;
  const id = opener?.dataset?.loadOpen;
  return id ? document.getElementById(id) : null;
}

document.addEventListener("htmx:afterRequest", (event) => {
  const dialog = opened(event);
  if (!dialog || !event.detail.successful) return;
  if (!dialog.open) dialog.showModal();
  bodyOf(dialog).focus();
});

document.addEventListener(
  "close",
  (event) => {
    if (event.target.matches?.("[data-load-dialog]")) bodyOf(event.target).replaceChildren();
  },
  true,
);
