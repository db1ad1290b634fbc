// A picture in full, with everything that is known about it.

import { picture } from "./api.js";
import { $, h, icon } from "./dom.js";

let results = [];
let place = 0;
let choose = () => {};

/** Look at one of some results. `onChoose(id)` makes it the reference. */
export function openPreview(some, which, onChoose) {
  [results, place, choose] = [some, which, onChoose];
  show();
  if (!$("preview").open) $("preview").showModal();
}

function show() {
  const one = results[place];
  const facts = Object.entries(one.facts ?? {}).filter(([, value]) => value !== null);
  const rows = facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value))));
  const use = h("button.primary", { type: "button" }, "Use as reference");
  use.onclick = () => {
    $("preview").close();
    choose(one.id);
  };
  const answers = (one.judged?.answers ?? []).map(({ question, expected, got }) =>
    h(expected === got ? "li.holds" : "li.fails", {}, question, h("b", {}, got)),
  );
  $("preview").replaceChildren(
    h("div.preview-picture", {}, picture(one.id, 1024, one.id, { eager: true })),
    h(
      "div.preview-facts",
      {},
      h("h2", {}, one.id),
      one.score !== undefined && h("p.quiet", {}, `Rank ${one.rank} · score ${one.score.toFixed(4)}`),
      rows.length > 0 && h("dl", {}, ...rows),
      one.judged?.reason && h("p.reason", {}, one.judged.reason),
      answers.length > 0 && h("ul.answers", {}, ...answers),
      h("div.preview-end", {}, use, h("span.push"), step(-1, "left", "The one before"), step(1, "right", "The next one")),
    ),
    h("button.clear", { type: "button", onclick: () => $("preview").close(), "aria-label": "Close" }, icon("close")),
  );
  use.focus();
}

function step(by, name, label) {
  const button = h("button.ghost", { type: "button", onclick: () => go(by), "aria-label": label }, icon(name));
  button.disabled = !results[place + by];
  return button;
}

function go(by) {
  if (!results[place + by]) return;
  place += by;
  show();
}

export function setUpPreview() {
  const dialog = $("preview");
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") go(-1);
    if (event.key === "ArrowRight") go(1);
  });
}
