// What went wrong, in words, and what can be done about it.

import { rememberToken } from "./api.js";
import { $, h } from "./dom.js";

const TITLES = {
  away: "The server is away",
  busy: "The server is busy",
  token: "A token is needed",
  input: "That did not work",
  fault: "The server made a mistake",
};

export function hideNotice() {
  $("notice").hidden = true;
  $("notice").replaceChildren();
}

/** Show a failure. `retry` is called by its button. */
export function showFailure(failure, retry) {
  const kind = TITLES[failure.kind] ? failure.kind : "fault";
  const again = kind === "away" || kind === "busy" || kind === "fault";
  const button = () => again && h("button.plain", { type: "button", onclick: retry }, "Try again");
  if (kind === "token") {
    show(TITLES.token, "Whoever runs this server has it: the address that it prints ends with it.", tokenForm(retry));
  } else show(TITLES[kind], failure.message, button());
  $("notice").classList.remove("mild");
}

/** Show something else, such as an address to copy. */
export function show(title, text, ...more) {
  const close = h("button.plain.small", { type: "button", onclick: hideNotice }, "Dismiss");
  $("notice").replaceChildren(h("div", {}, h("strong", {}, title), h("p", {}, text)), ...more.filter(Boolean), close);
  $("notice").classList.add("mild");
  $("notice").hidden = false;
}

function tokenForm(retry) {
  const box = h("input", { type: "password", "aria-label": "Token", placeholder: "Token", autocomplete: "off" });
  const form = h("form.token", {}, box, h("button.primary", { type: "submit" }, "Use it"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!box.value.trim()) return;
    rememberToken(box.value.trim());
    hideNotice();
    retry();
  });
  return form;
}
