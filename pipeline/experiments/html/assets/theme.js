// Light and dark: what the system prefers, until the button says otherwise.
"use strict";
(() => {
  const root = document.documentElement;
  const prefers = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try { chosen = localStorage.getItem("fullsum-theme"); } catch { /* pages from a disk may have no storage */ }
  function show() {
    const dark = chosen ? chosen === "dark" : prefers.matches;
    root.classList.toggle("dark", dark);
    document.getElementById("theme").textContent = dark ? "Light" : "Dark";
    document.dispatchEvent(new Event("themechange"));
  }
  prefers.addEventListener("change", show);
  document.getElementById("theme").addEventListener("click", () => {
    chosen = root.classList.contains("dark") ? "light" : "dark";
    try { localStorage.setItem("fullsum-theme", chosen); } catch { /* it holds for this page then */ }
    show();
  });
  show();
})();
