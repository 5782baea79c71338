// Runs before the first paint, as a classic script in <head>: says that scripts work and sets the chosen theme.
// Must stay tiny and must not fail where storage is forbidden.
(function () {
  var root = document.documentElement;
  root.dataset.js = "";
  try {
    var theme = localStorage.getItem("musicgen.theme");
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  } catch (error) {
    root.dataset.storage = "none";
  }
})();
