// Keys that work everywhere on the page.

import { $ } from "./dom.js";
import { toggleFilters } from "./filters.js";
import { closeMaps } from "./phrases.js";
import { enterPictures, lookAtFocused, moveFocus } from "./results.js";

const isTyping = (element) => element?.matches?.("input:not([type=checkbox], [type=range]), textarea, select");

/** `undo`, `stop` (returns whether something was stopped) and `compare` are what the keys do. */
export function setUpKeys({ undo, stop, compare }) {
  $("help").onclick = () => $("keys").showModal();
  $("keys").addEventListener("click", (event) => event.target === $("keys") && $("keys").close());

  const plain = {
    "/": () => focusText(),
    "?": () => $("keys").showModal(),
    u: undo,
    o: () => $("file").click(),
    f: () => toggleFilters(),
    c: compare,
  };

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") return escape(stop);
    if (event.target === $("text")) {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        $("composer").requestSubmit();
      } else if (event.key === "ArrowDown" && atEnd(event.target) && enterPictures()) event.preventDefault();
      return;
    }
    if (isTyping(event.target)) return;
    const onPicture = event.target.matches?.(".pick");
    if (onPicture && event.key.startsWith("Arrow") | (event.key === "Home") | (event.key === "End")) {
      event.preventDefault();
      if (!moveFocus(event.key) && event.key === "ArrowUp") focusText();
    } else if (onPicture && event.key === " ") {
      if (lookAtFocused()) event.preventDefault();
    } else if (plain[event.key]) {
      event.preventDefault();
      plain[event.key]();
    }
  });
}

function atEnd(box) {
  return box.selectionStart === box.value.length;
}

export function focusText() {
  $("text").focus();
  $("text").setSelectionRange($("text").value.length, $("text").value.length);
}

function escape(stop) {
  if (closeMaps() || stop()) return;
  if (!$("filters").hidden && $("filters").contains(document.activeElement)) {
    toggleFilters(false);
    $("filters-toggle").focus();
  } else if (document.activeElement?.matches(".pick, .look")) focusText();
  else document.activeElement?.blur();
}
