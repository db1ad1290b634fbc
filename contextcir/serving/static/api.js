// Ask the server. A token comes in the address (#token=...), and is kept for this tab.

import { h, icon } from "./dom.js";

const TOKEN = "contextcir-token";
let generation = 0;

/** Why the server did not do what was asked. `kind`: away, busy, token, input, or fault. */
export class Failure extends Error {
  constructor(kind, message, seconds = 0) {
    super(message);
    this.kind = kind;
    this.seconds = seconds; // after which to try again
  }
}

const AWAY = "The server does not answer. Is it still running?";

export function rememberToken(token) {
  try {
    sessionStorage.setItem(TOKEN, token);
  } catch {
    // a browser that keeps nothing asks again after a reload
  }
  rememberToken.now = token;
}

function token() {
  try {
    return rememberToken.now ?? sessionStorage.getItem(TOKEN);
  } catch {
    return rememberToken.now ?? null;
  }
}

async function ask(path, { form, signal } = {}) {
  const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
  let response;
  try {
    response = await fetch(path, { method: form ? "POST" : "GET", body: form, headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("away", AWAY);
  }
  if (response.ok) return response;
  let message = "";
  try {
    message = (await response.json()).error ?? "";
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (response.status === 401) throw new Failure("token", "This server asks for its token.");
  if (response.status === 429) throw new Failure("busy", message, Number(response.headers.get("Retry-After")) || 1);
  if (response.status === 413) throw new Failure("input", message || "The picture is too large for this server.");
  if (response.status >= 502) throw new Failure("away", message || AWAY);
  throw new Failure(response.status < 500 ? "input" : "fault", message || `The server answered ${response.status}.`);
}

async function askJson(path, options) {
  const response = await ask(path, options);
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("away", AWAY);
  }
}

/** A form from fields that are set. */
function formOf(fields) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value !== undefined && value !== null && value !== "") form.append(name, value);
  }
  return form;
}

export async function getInfo(seed) {
  const found = await askJson(seed === undefined ? "info" : `info?seed=${seed}`);
  generation = found.generation;
  return found;
}

export const search = (fields, signal) => askJson("search", { form: formOf(fields), signal });
export const findPhrases = (text, signal) => askJson("phrases", { form: formOf({ text }), signal });
export const lookAt = (fields, signal) => askJson("attention", { form: formOf(fields), signal });
export const rerank = (fields, signal) => askJson("rerank", { form: formOf(fields), signal });

/** A picture of the gallery as an element, which says so if there is none any more. */
export function picture(id, size, alt = "", { eager = false } = {}) {
  const image = h("img", { alt, decoding: "async", draggable: false });
  if (!eager) image.loading = "lazy";
  const frame = h("span.frame.loading", {}, image);
  const settle = (good) => {
    frame.classList.remove("loading");
    if (good) return;
    frame.classList.add("broken");
    frame.replaceChildren(icon("broken"), h("span", {}, "This picture cannot be read"));
  };
  image.addEventListener("load", () => settle(true), { once: true });
  image.addEventListener("error", () => settle(false), { once: true });
  const path = `images/${encodeURIComponent(id)}?size=${size}&v=${generation}`;
  if (!token()) image.src = path;
  else showWithToken(image, path, settle);
  return frame;
}

// An <img> cannot send a header: the picture is fetched, and shown from memory.
async function showWithToken(image, path, settle) {
  try {
    const url = URL.createObjectURL(await (await ask(path)).blob());
    image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    image.src = url;
  } catch {
    settle(false);
  }
}
