// Menus are <details>: one open at a time, closed by Escape, by a click elsewhere and by leaving with Tab.
// Dialogs are native; this only opens them.

function close(menu, returnFocus) {
  menu.removeAttribute("open");
  if (returnFocus) menu.querySelector("summary")?.focus();
}

function openMenus() {
  return document.querySelectorAll("details[data-menu][open]");
}

document.addEventListener(
  "toggle",
  (event) => {
    const menu = event.target;
    if (!(menu instanceof HTMLDetailsElement) || !menu.matches("[data-menu]") || !menu.open) return;
    for (const other of openMenus()) if (other !== menu) close(other, false);
    const panel = menu.querySelector(".menu-panel");
    menu.removeAttribute("data-up");
    if (!panel) return;
    const player = document.querySelector(".player:not([hidden])");
    const floor = player ? player.getBoundingClientRect().top : window.innerHeight;
    const box = panel.getBoundingClientRect();
    const room = menu.getBoundingClientRect().top - document.querySelector(".topbar").offsetHeight;
    if (box.bottom > floor && box.height < room) menu.setAttribute("data-up", "");
  },
  true,
);

document.addEventListener("click", (event) => {
  for (const menu of openMenus()) {
    const item = event.target.closest(".menu-item");
    if (!menu.contains(event.target) || (item && menu.contains(item))) close(menu, false);
  }
  const opener = event.target.closest("[data-dialog-open]");
  if (opener) document.getElementById(opener.dataset.dialogOpen)?.showModal();
  // A click on the backdrop has the dialog itself as its target, outside its box.
  if (event.target instanceof HTMLDialogElement && event.target.open) {
    const box = event.target.getBoundingClientRect();
    const inside = event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom;
    if (!inside) event.target.close();
  }
});

document.addEventListener("focusin", (event) => {
  for (const menu of openMenus()) if (!menu.contains(event.target)) close(menu, false);
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of openMenus()) {
    close(menu, true);
    event.preventDefault();
  }
});
