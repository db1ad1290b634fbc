// The pictures: those to begin with, and those that were found. One grid, or three rows to compare.

import { picture } from "./api.js";
import { $, count, h, icon, shortName } from "./dom.js";

const ROWS = {
  composed: ["Both", "the reference, changed as the text says"],
  image: ["Image only", "like the reference"],
  text: ["Text only", "as the text says"],
};

let act = { choose() {}, look() {} };

/** `choose(id)` makes a picture the reference, `look(results, place)` shows it in full. */
export function setUpResults(actions) {
  act = actions;
}

/** Show results in a grid. */
export function showGrid(results) {
  fill(h("ol.grid", {}, ...results.map((one, place) => tile(one, place, results))));
}

/** Show three searches below each other. `found`: list of { mode, results } or { mode, missing: why }. */
export function showRows(found) {
  const rows = found.map(({ mode, results, missing }) =>
    h(
      "section.row",
      { "aria-label": ROWS[mode][0] },
      h("h2", {}, ROWS[mode][0], h("small", {}, ROWS[mode][1])),
      missing || !results.length
        ? h("p.nothing", {}, missing ?? "Nothing was found.")
        : h("ol.strip", {}, ...results.map((one, place) => tile(one, place, results))),
    ),
  );
  fill(...rows);
}

/** Show pictures to begin with. `start(example)` searches with one, `shuffle()` shows others. */
export function showExamples(examples, start, shuffle) {
  const withTexts = examples.some((one) => one.text);
  const tiles = examples.map((one) => {
    const label = `Begin with ${[one.id, one.text].filter(Boolean).join(": ")}`;
    const button = h(
      "button.pick",
      { type: "button", onclick: () => start(one), "aria-label": label },
      picture(one.id, 256, ""),
      one.text && h("span.words-of", {}, one.text),
    );
    return h("li.tile.example", {}, button);
  });
  fill(
    h(
      "div.examples-head",
      {},
      h("h2", {}, withTexts ? "Try one of these" : "Begin with one of these"),
      h("button.plain.small", { type: "button", onclick: shuffle, id: "shuffle" }, icon("shuffle"), "Others"),
    ),
    h("ol.grid", {}, ...tiles),
  );
}

/** Show that there is nothing, and why. `actions`: list of [label, function]. */
export function showNothing(title, text, actions = []) {
  const buttons = actions.map(([label, run]) => h("button.plain", { type: "button", onclick: run }, label));
  fill(
    h(
      "div.empty",
      {},
      h("span.empty-art", { "aria-hidden": "true" }, h("i"), h("i"), h("i")),
      h("h2", {}, title),
      h("p", {}, text),
      buttons.length > 0 && h("div.empty-actions", {}, ...buttons),
    ),
  );
}

/** Show that a search is under way: the old results fade, or grey tiles stand in for the first ones. */
export function showWaiting(number) {
  const place = $("results");
  place.classList.add("waiting");
  place.setAttribute("aria-busy", "true");
  if (place.querySelector(".tile:not(.example)")) return;
  const ghost = () => h("li.tile", {}, h("span.frame.loading"), h("span.line"));
  const tiles = Array.from({ length: Math.min(number, 24) }, ghost);
  place.replaceChildren(h("ol.grid.ghosts", { "aria-hidden": "true" }, ...tiles));
}

function fill(...children) {
  const place = $("results");
  place.classList.remove("waiting");
  place.setAttribute("aria-busy", "false");
  place.replaceChildren(...children);
  const first = place.querySelector(".pick");
  if (first) first.tabIndex = 0;
}

function tile(one, place, results) {
  const label = `${one.rank}. ${one.id}, score ${one.score.toFixed(3)}. Use as reference`;
  return h(
    "li.tile",
    {},
    h(
      "button.pick",
      { type: "button", tabIndex: -1, onclick: () => act.choose(one.id), "aria-label": label, title: one.id },
      picture(one.id, 256, ""),
      h("span.use", {}, "Use as reference"),
    ),
    h(
      "button.look",
      { type: "button", tabIndex: -1, onclick: () => act.look(results, place), "aria-label": `Look at ${one.id}` },
      icon("look"),
    ),
    h(
      "div.caption",
      {},
      h("span.rank", {}, count(one.rank)),
      h("span.id", { title: one.id }, shortName(one.id)),
      h("span.score", { title: "Score" }, one.score.toFixed(3)),
    ),
    one.judged && reasons(one.judged),
  );
}

function reasons({ answers, verdict, reason }) {
  const holding = answers.filter((one) => one.expected === one.got).length;
  return h(
    "div.reasons",
    {},
    verdict && h(verdict === "accept" ? "span.verdict.good" : "span.verdict", {}, `${verdict}ed`),
    answers.length > 0 && h("span.verdict", {}, `${holding} of ${answers.length} hold`),
    reason && h("p", { title: reason }, reason),
  );
}

/** Move the focus over the pictures. Returns whether the key was one for that. */
export function moveFocus(key) {
  const picks = [...$("results").querySelectorAll(".pick")];
  const from = picks.indexOf(document.activeElement);
  if (from < 0) return false;
  const along = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: picks.length - 1 };
  const to = along[key] ?? vertical(picks, from, key);
  if (to === null) return false;
  if (picks[to]) focusOn(picks[to], picks);
  return to >= 0;
}

function vertical(picks, from, key) {
  if (key !== "ArrowUp" && key !== "ArrowDown") return null;
  const here = picks[from].getBoundingClientRect();
  const middle = here.left + here.width / 2;
  const down = key === "ArrowDown";
  const beyond = picks
    .map((one, place) => ({ place, box: one.getBoundingClientRect() }))
    .filter(({ box }) => (down ? box.top > here.top + 4 : box.top < here.top - 4));
  if (!beyond.length) return down ? from : -1; // above the first row is the text
  const nearer = (one, best) => (down ? one.box.top < best.box.top : one.box.top > best.box.top);
  const line = beyond.reduce((best, one) => (nearer(one, best) ? one : best));
  const inLine = beyond.filter(({ box }) => Math.abs(box.top - line.box.top) < 4);
  const off = ({ box }) => Math.abs(box.left + box.width / 2 - middle);
  return inLine.reduce((best, one) => (off(one) < off(best) ? one : best)).place;
}

function focusOn(pick, picks) {
  for (const one of picks) one.tabIndex = one === pick ? 0 : -1;
  pick.focus();
  pick.scrollIntoView({ block: "nearest", inline: "nearest" });
}

/** Go to the first picture. Returns whether there is one. */
export function enterPictures() {
  const picks = [...$("results").querySelectorAll(".pick")];
  if (picks.length) focusOn(picks.find((one) => one.tabIndex === 0) ?? picks[0], picks);
  return picks.length > 0;
}

/** Look at the picture that has the focus. */
export function lookAtFocused() {
  const button = document.activeElement?.closest(".tile")?.querySelector(".look");
  button?.click();
  return Boolean(button);
}
