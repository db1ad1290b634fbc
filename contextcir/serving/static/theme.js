// Light or dark: as the system says, until somebody says otherwise.

import { $ } from "./dom.js";

const KEY = "contextcir-theme";

function stored() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

export function setUpTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  if (stored()) document.documentElement.dataset.theme = stored();
  $("theme").onclick = () => {
    const dark = (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
    const next = dark ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem(KEY, next);
    } catch {
      // until the next load
    }
  };
}
