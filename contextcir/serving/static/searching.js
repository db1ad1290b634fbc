// Searches: one at a time, kept for Back, and repeated for as long as the server is busy.

import { Failure, search } from "./api.js";
import { hasReference, lastStep } from "./state.js";
import { uploaded } from "./uploads.js";

const KEPT = 40;
const TRIES = 6;
const kept = new Map(); // what was asked, as JSON -> the answer
let current = null;

/** Stop the search that is under way. Returns whether there was one. */
export function stopSearch() {
  const was = current !== null;
  current?.abort();
  current = null;
  return was;
}

/** Forget answers, as those of a gallery that has changed. */
export const forgetAnswers = () => kept.clear();

/** The reference of a step as fields of a form; null if there is none. */
export function referenceFields(step) {
  if (step.ref) return { reference: step.ref };
  const own = step.upload === null ? null : uploaded(step.upload);
  return own ? { upload: own.file, key: `upload ${step.upload}` } : null;
}

/**
 * Search for what a state asks. Returns a list of { mode, results, ... }, or null if another search has begun.
 * `onBusy(seconds)` is told when the server asks to wait; `fresh` searches again although the answer is known.
 */
export async function runSearch(state, { onBusy, fresh = false }) {
  stopSearch();
  const mine = (current = new AbortController());
  try {
    const modes = state.view === "rows" ? ["composed", "image", "text"] : ["composed"];
    const found = await Promise.all(modes.map((mode) => once(state, mode, mine.signal, onBusy, fresh)));
    return current === mine ? found : null;
  } catch (error) {
    if (current !== mine || error.name === "AbortError") return null;
    mine.abort();
    throw error;
  } finally {
    if (current === mine) current = null;
  }
}

async function once(state, mode, signal, onBusy, fresh) {
  const step = lastStep(state);
  const missing = whatIsMissing(step, mode);
  if (missing) return { mode, missing, results: [] };
  const { upload, key, ...reference } = referenceFields(step) ?? {};
  const asked = { mode, k: state.k, ...(mode === "text" ? {} : reference), text: mode === "image" ? "" : step.text };
  if (mode === "composed" && step.text && hasReference(step)) asked.image_weight = state.weight;
  if (state.filters.length) asked.filters = JSON.stringify(state.filters);
  const name = JSON.stringify({ ...asked, key: mode === "text" ? "" : key });
  if (fresh || !kept.has(name)) {
    const fields = { ...asked, upload: mode === "text" ? null : upload };
    let begun = 0;
    const ask = () => {
      begun = performance.now();
      return search(fields, signal);
    };
    const answer = await patiently(ask, signal, onBusy);
    kept.delete(name);
    kept.set(name, { mode, elapsed: performance.now() - begun, ...answer });
    if (kept.size > KEPT) kept.delete(kept.keys().next().value);
  }
  return kept.get(name);
}

function whatIsMissing(step, mode) {
  if (mode === "image" && !hasReference(step)) return "Needs a reference.";
  if (mode === "text" && !step.text.trim()) return "Needs a text.";
  return null;
}

/** Ask, and ask again after a pause while the server is busy. */
export async function patiently(ask, signal, onBusy) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof Failure) || error.kind !== "busy" || tries === TRIES) throw error;
      onBusy(error.seconds);
      await pause(error.seconds * (0.8 + 0.4 * Math.random()), signal); // not all at the same moment
    }
  }
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    });
  });
}
