// The page: what is shown follows from a state, and the state is in the address.

import { getInfo, rememberToken, rerank } from "./api.js";
import { $, count, debounced } from "./dom.js";
import { saveCsv, saveJson } from "./exports.js";
import { describe, setUpFilters, showFilters } from "./filters.js";
import { focusText, setUpKeys } from "./keyboard.js";
import { hideNotice, show, showFailure } from "./notices.js";
import { setUp as setUpPhrases, updatePhrases } from "./phrases.js";
import { openPreview, setUpPreview } from "./preview.js";
import { showReference } from "./reference.js";
import { setUpResults, showExamples, showGrid, showNothing, showRows, showWaiting } from "./results.js";
import { forgetAnswers, patiently, referenceFields, runSearch, stopSearch } from "./searching.js";
import { emptyState, emptyStep, fromHash, hasReference, isEmpty, lastStep, takeToken, toHash, withStep } from "./state.js";
import { setUpTheme } from "./theme.js";
import { showTrail } from "./trail.js";
import { complaint, keep, listen, uploaded } from "./uploads.js";

let state = emptyState();
let info = null;
let found = null; // what is shown: a list of { mode, results }
let judging = null;
let seed = 0; // of the examples

// --- state -----------------------------------------------------------------------------------------------------------

/** Go to another state, as a new entry of the history or in place of this one. */
function go(next, { replace = false } = {}) {
  if (!replace) history.replaceState({ ...history.state, scroll: scrollY }, "");
  state = next;
  const entry = { state };
  if (replace) history.replaceState(entry, "", toHash(state));
  else history.pushState(entry, "", toHash(state));
  render();
}

function fromEntry(entry) {
  if (!entry?.state) return fromHash(location.hash);
  const known = (step) => ({ ...step, upload: uploaded(step.upload) ? step.upload : null });
  return { ...entry.state, steps: entry.state.steps.map(known) };
}

function choose(id) {
  const step = { ...emptyStep(), ref: id };
  const here = lastStep(state);
  if (here.ref === id && !here.text) return; // a second click
  go({ ...state, steps: isEmpty(here) ? [step] : [...state.steps, step] });
  toTop();
}

function start(example) {
  go({ ...state, steps: [{ ...emptyStep(), ref: example.id, text: example.text }] });
  toTop();
}

function undo() {
  if (state.steps.length > 1) go({ ...state, steps: state.steps.slice(0, -1) });
  else if (!isEmpty(lastStep(state))) go({ ...state, steps: [emptyStep()] });
}

function takeFile(file) {
  const wrong = info && complaint(file, info.limits);
  if (wrong) return showFailure({ kind: "input", message: wrong });
  const values = { ref: null, upload: keep(file), name: file.name || "pasted picture" };
  const draft = $("text").value.trim();
  if (hasReference(lastStep(state))) go({ ...state, steps: [...state.steps, { ...emptyStep(), ...values }] });
  else go(withStep(state, { ...values, text: draft }));
  toTop();
}

function toTop() {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  scrollTo({ top: 0, behavior: calm ? "instant" : "smooth" });
  if (matchMedia("(pointer: fine)").matches) focusText();
}

// --- what is shown ---------------------------------------------------------------------------------------------------

function render({ scroll } = {}) {
  const step = lastStep(state);
  const clear = () => go(withStep(state, { ref: null, upload: null, name: "" }));
  document.title = [step.text, info?.name ?? "Search pictures"].filter(Boolean).join(" · ");
  document.body.classList.toggle("begun", !isEmpty(step));
  showReference(step, clear);
  if ($("text").value.trim() !== step.text) $("text").value = step.text;
  fitText();
  updatePhrases($("text").value);
  if (document.activeElement !== $("k")) $("k").value = state.k;
  $("weight").value = state.weight;
  $("weight").disabled = !hasReference(step);
  $("weight-value").textContent = `${Math.round(100 * state.weight)} %`;
  $("view-grid").setAttribute("aria-pressed", String(state.view === "grid"));
  $("view-rows").setAttribute("aria-pressed", String(state.view === "rows"));
  showTrail(state.steps, (place) => go({ ...state, steps: state.steps.slice(0, place + 1) }), undo);
  if (!info) return;
  showFilters(state.filters);
  if (!hasReference(step) && !step.text.trim()) showStart();
  else searchNow({ scroll });
}

function showStart() {
  stopSearch();
  hideNotice();
  found = null;
  $("tools").hidden = true;
  $("latency").textContent = "";
  $("status").textContent = "";
  if (!info.count) {
    const command = "contextcir index PHOTOS --model MODEL --output my-gallery";
    showNothing("This gallery is empty", `Put pictures into it: ${command}. They appear here without a restart.`, [
      ["Look again", begin],
    ]);
    return;
  }
  const shuffle = async () => {
    seed += 1;
    await attempt(async () => showExamples((await getInfo(seed)).examples, start, shuffle), shuffle);
    $("shuffle")?.focus();
  };
  showExamples(info.examples, start, shuffle);
}

async function searchNow({ scroll, fresh = false } = {}) {
  judging?.abort();
  hideNotice();
  $("tools").hidden = true;
  $("status").textContent = "Searching …";
  $("latency").textContent = "";
  showWaiting(state.k);
  const onBusy = (seconds) => {
    $("status").textContent = `The server is busy. Trying again in ${seconds} s …`;
  };
  await attempt(
    async () => {
      const answers = await runSearch(state, { onBusy, fresh });
      if (!answers) return;
      found = answers;
      showFound();
      if (scroll !== undefined) scrollTo({ top: scroll, behavior: "instant" });
      if (answers.some((one) => one.generation !== undefined && one.generation !== info.generation)) await renew();
    },
    () => searchNow({ fresh: true }),
  );
}

/** Do something; if it fails, say so, and keep what is on the page. */
async function attempt(what, retry) {
  try {
    await what();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!error.kind) throw error;
    $("results").classList.remove("waiting");
    $("results").setAttribute("aria-busy", "false");
    if ($("results").querySelector(".ghosts")) $("results").replaceChildren();
    $("status").textContent = "";
    $("tools").hidden = !found;
    showFailure(error, retry);
  }
}

function showFound() {
  const shown = found.filter((one) => !one.missing);
  const main = found[0];
  $("tools").hidden = false;
  const canJudge = info.capabilities.rerank && state.view === "grid" && lastStep(state).text;
  $("rerank").hidden = !(canJudge && main.results.length);
  const longest = Math.round(Math.max(...shown.map((one) => one.elapsed)));
  $("status").textContent = `${count(main.results.length)} of ${count(info.count)} pictures in ${longest} ms`;
  $("latency").textContent = shown.length === 1 ? spent(main.milliseconds) : "";
  if (state.view === "rows") return showRows(found);
  if (main.results.length) return showGrid(main.results);
  if (!state.filters.length) return showNothing("Nothing was found", "The gallery holds no other picture.");
  showNothing("No picture fits these filters", describe(state.filters).join(", and "), [
    ["Clear the filters", () => go({ ...state, filters: [] }, { replace: true })],
  ]);
}

function spent({ read, queue, embed, search }) {
  const parts = Object.entries({ read, wait: queue, model: embed, search });
  return parts.map(([name, value]) => `${name} ${value < 10 ? value.toFixed(1) : Math.round(value)}`).join(" · ");
}

async function judge() {
  judging?.abort();
  const mine = (judging = new AbortController());
  const { key, ...reference } = referenceFields(lastStep(state)) ?? {};
  const results = found[0].results;
  const fields = { ...reference, text: lastStep(state).text, ids: JSON.stringify(results.map((one) => one.id)) };
  $("status").textContent = "The chat models look at the pictures …";
  $("rerank").disabled = true;
  await attempt(async () => {
    const answer = await patiently(() => rerank(fields, mine.signal), mine.signal, () => {});
    const known = new Map(results.map((one) => [one.id, one]));
    const order = answer.results.map((judged, place) => ({ ...known.get(judged.id), rank: place + 1, judged }));
    found = [{ ...found[0], results: order }];
    showGrid(order);
    $("status").textContent = "Re-ranked by ImageScope";
  }, judge);
  $("rerank").disabled = false;
}

// --- beginning -------------------------------------------------------------------------------------------------------

function fitText() {
  $("text").style.height = "auto";
  $("text").style.height = `${$("text").scrollHeight}px`;
}

async function renew() {
  info = await getInfo();
  forgetAnswers();
  setUpFilters(info.columns, (filters) => go({ ...state, filters }, { replace: true }));
  showFilters(state.filters);
  setUpPhrases(info.capabilities, () => referenceFields(lastStep(state)));
  $("name").textContent = info.name;
  $("about").textContent = `${count(info.count)} pictures · ${info.model}`;
}

function begin() {
  return attempt(async () => {
    await renew();
    render({ scroll: history.state?.scroll });
  }, begin);
}

async function shareAddress() {
  const own = lastStep(state).upload !== null;
  const warning = own ? " The uploaded picture is not part of it: others see the rest." : "";
  try {
    await navigator.clipboard.writeText(location.href);
    $("status").textContent = `The address is copied.${warning}`;
  } catch {
    show("The address of this search", `${location.href}${warning}`);
  }
}

function asked() {
  const { ref, name, text } = lastStep(state);
  const { k, weight, filters } = state;
  const reference = ref ?? (name ? `upload: ${name}` : null);
  return { gallery: info.name, model: info.model, reference, text, k, image_weight: weight, filters };
}

function setUpControls() {
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("text").value.trim();
    if (!text && !hasReference(lastStep(state))) {
      $("status").textContent = "Choose a reference, or write what you look for.";
      focusText();
    } else if (text === lastStep(state).text) searchNow({ fresh: true });
    else go(withStep(state, { text }));
  });
  $("text").addEventListener("input", () => {
    fitText();
    updatePhrases($("text").value);
  });
  const setK = debounced(350, () => {
    const k = Math.min(100, Math.max(1, Math.round(Number($("k").value)) || state.k));
    if (k !== state.k) go({ ...state, k }, { replace: true });
  });
  $("k").addEventListener("input", setK);
  $("k").addEventListener("blur", () => {
    $("k").value = state.k;
  });
  $("weight").addEventListener("input", () => {
    $("weight-value").textContent = `${Math.round(100 * $("weight").value)} %`;
  });
  $("weight").addEventListener("change", () => go({ ...state, weight: Number($("weight").value) }, { replace: true }));
  $("choose").onclick = () => $("file").click();
  $("home").onclick = () => go({ ...emptyState(), view: state.view });
  $("view-grid").onclick = () => setView("grid");
  $("view-rows").onclick = () => setView("rows");
  $("share").onclick = shareAddress;
  $("export-json").onclick = () => saveJson(asked(), found.filter((one) => !one.missing));
  $("export-csv").onclick = () => saveCsv(found);
  $("rerank").onclick = judge;
  $("skip").onclick = (event) => {
    event.preventDefault(); // the address is taken
    $("results").focus();
  };
}

function setView(view) {
  if (view !== state.view) go({ ...state, view }, { replace: true });
}

function stop() {
  const stopped = stopSearch() || (judging !== null && !judging.signal.aborted && $("rerank").disabled);
  judging?.abort();
  if (!stopped) return false;
  $("results").classList.remove("waiting");
  $("results").setAttribute("aria-busy", "false");
  $("status").textContent = "Stopped.";
  $("tools").hidden = !found;
  return true;
}

const token = takeToken();
if (token) rememberToken(token);
history.scrollRestoration = "manual";
state = fromEntry(history.state);
history.replaceState({ ...history.state, state }, "", toHash(state));
addEventListener("popstate", (event) => {
  state = fromEntry(event.state);
  render({ scroll: event.state?.scroll });
});
setUpTheme();
setUpPreview();
setUpResults({ choose, look: (results, place) => openPreview(results, place, choose) });
setUpKeys({ undo, stop, compare: () => setView(state.view === "rows" ? "grid" : "rows") });
setUpControls();
listen({ file: $("file"), veil: $("veil"), take: takeFile });
render();
begin();
