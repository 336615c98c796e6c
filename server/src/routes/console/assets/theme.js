// Before the first paint: the theme that was chosen last. Without one, the system's.
"use strict";

(() => {
  try {
    const theme = localStorage.getItem("quire-theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage may be forbidden: the system's theme then.
  }
})();
