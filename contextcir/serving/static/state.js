// What the page shows, and its address. The part after # never leaves the browser, so that no log can hold it.

const DEFAULT_K = 20;

/**
 * A step of the chain: `ref` is an id of the gallery, `upload` the number of an uploaded picture of this tab (whose
 * `name` the address keeps, but not its pixels), `text` what should be different.
 */
export const emptyStep = () => ({ ref: null, upload: null, name: "", text: "" });
export const emptyState = () => ({ steps: [emptyStep()], k: DEFAULT_K, weight: 0, filters: [], view: "grid" });

export const lastStep = (state) => state.steps[state.steps.length - 1];
export const isEmpty = (step) => !step.ref && step.upload === null && !step.name && !step.text.trim();
export const hasReference = (step) => Boolean(step.ref) || step.upload !== null;

/** The same state with other values in its last step. */
export function withStep(state, values) {
  return { ...state, steps: [...state.steps.slice(0, -1), { ...lastStep(state), ...values }] };
}

const pack = (step) => [step.ref ?? "", step.text, ...(step.name ? [step.name] : [])];
const text = (value) => (typeof value === "string" ? value.slice(0, 500) : "");

function unpack([ref, words, name]) {
  return { ref: typeof ref === "string" && ref ? ref : null, upload: null, name: text(name), text: text(words) };
}

export function toHash(state) {
  const { ref, text: words, name } = lastStep(state);
  const query = new URLSearchParams();
  if (ref) query.set("ref", ref);
  if (name) query.set("upload", name);
  if (words) query.set("text", words);
  if (state.k !== DEFAULT_K) query.set("k", state.k);
  if (state.weight) query.set("weight", state.weight);
  if (state.filters.length) query.set("filters", JSON.stringify(state.filters));
  if (state.view !== "grid") query.set("view", state.view);
  if (state.steps.length > 1) query.set("trail", JSON.stringify(state.steps.slice(0, -1).map(pack)));
  const found = query.toString();
  return found ? `#${found}` : "#";
}

/** Read an address. What makes no sense is left out: anybody may have written it. */
export function fromHash(hash) {
  const query = new URLSearchParams(hash.replace(/^#/, ""));
  const state = emptyState();
  const step = unpack([query.get("ref"), query.get("text"), query.get("upload")]);
  state.steps = [...readJson(query.get("trail")).filter(Array.isArray).slice(-50).map(unpack), step];
  const k = Number(query.get("k") ?? DEFAULT_K);
  if (Number.isInteger(k) && k >= 1 && k <= 100) state.k = k;
  const weight = Number(query.get("weight") ?? 0);
  if (weight >= 0 && weight <= 1) state.weight = weight;
  state.filters = readJson(query.get("filters")).filter((one) => one && typeof one.column === "string" && "value" in one);
  if (query.get("view") === "rows") state.view = "rows";
  return state;
}

function readJson(value) {
  try {
    const found = JSON.parse(value ?? "[]");
    return Array.isArray(found) ? found : [];
  } catch {
    return [];
  }
}

/** Take the token out of the address, so that it is not shared with it. */
export function takeToken() {
  const query = new URLSearchParams(location.hash.replace(/^#/, ""));
  const token = query.get("token");
  if (!token) return null;
  query.delete("token");
  history.replaceState(null, "", `${location.pathname}#${query}`);
  return token;
}
