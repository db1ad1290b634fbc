// The noun phrases of the text as chips. One that is pointed at shows where the model looks for it.

import { findPhrases, lookAt } from "./api.js";
import { $, debounced, h } from "./dom.js";

const looks = new Map(); // reference and text -> promise of what the model looks at
const KEPT = 20;

let abilities = { phrases: false, attention: false };
let reference = () => null; // fields of the reference, or null
let waiting = null;
let open = null; // the chip whose maps are shown

export function setUp(capabilities, getReference) {
  abilities = capabilities;
  reference = getReference;
}

addEventListener("pointerdown", (event) => $("phrases").contains(event.target) || closeMaps());

/** Find the phrases of the text that is being written. */
export const updatePhrases = debounced(300, async (text) => {
  waiting?.abort();
  if (!abilities.phrases) return;
  if (!text.trim()) return show([], text);
  waiting = new AbortController();
  try {
    show((await findPhrases(text, waiting.signal)).phrases, text);
  } catch (error) {
    if (error.name !== "AbortError") show([], text); // chips are a help: a search says what is wrong
  }
});

function show(phrases, text) {
  closeMaps();
  const chips = phrases.map((phrase, place) => {
    const properties = { type: "button" };
    if (abilities.attention) properties["aria-expanded"] = "false";
    const chip = h("button.chip", properties, phrase.text);
    if (abilities.attention) {
      chip.addEventListener("pointerenter", () => openMaps(chip, text, place));
      chip.addEventListener("focus", () => openMaps(chip, text, place));
      chip.addEventListener("click", () => openMaps(chip, text, place));
      chip.addEventListener("blur", closeMaps);
    } else {
      chip.disabled = true;
    }
    return chip;
  });
  $("phrases").replaceChildren(...chips);
  $("phrases").hidden = !chips.length;
  if (abilities.attention) $("phrases").onpointerleave = closeMaps;
}

/** Close the maps. Returns whether there were any. */
export function closeMaps() {
  const was = open !== null;
  open?.setAttribute("aria-expanded", "false");
  open = null;
  document.querySelector(".maps")?.remove();
  return was;
}

async function openMaps(chip, text, place) {
  if (open === chip) return;
  closeMaps();
  open = chip;
  chip.setAttribute("aria-expanded", "true");
  const panel = h("div.maps", { role: "note", "aria-label": `Where the model looks for “${chip.textContent}”` });
  $("phrases").append(panel);
  const fields = reference();
  if (!fields) {
    panel.append(h("p", {}, "Choose a reference to see where the model looks."));
    return;
  }
  panel.append(h("p.busy", {}, "Looking …"));
  try {
    const found = await looksAt(fields, text);
    if (open === chip) await draw(panel, found.image, found.phrases[place]);
  } catch (error) {
    if (open === chip) panel.replaceChildren(h("p", {}, error.message));
  }
}

function looksAt(fields, text) {
  const key = JSON.stringify([fields.reference ?? fields.key, text]);
  if (!looks.has(key)) {
    const found = lookAt({ reference: fields.reference, upload: fields.upload, text });
    found.catch(() => looks.delete(key));
    looks.set(key, found);
    if (looks.size > KEPT) looks.delete(looks.keys().next().value);
  }
  return looks.get(key);
}

async function draw(panel, source, phrase) {
  if (!phrase?.context || !phrase.isolated) {
    panel.replaceChildren(h("p", {}, "The model does not read this phrase: the text is too long."));
    return;
  }
  const most = Math.max(...phrase.context.flat(), ...phrase.isolated.flat());
  const of = (map, title) => {
    const seen = h("img", { src: source, alt: "" });
    return h("figure", {}, h("span.heat", {}, seen, heat(map, most)), h("figcaption", {}, title));
  };
  panel.replaceChildren(
    of(phrase.context, "in context"),
    of(phrase.isolated, "isolated"),
    h("p", {}, `They differ by ${Math.round(100 * phrase.distance)} %.`),
  );
}

// From nothing over amber to red. A pair of maps shares its scale, so that they can be compared.
function heat(map, most) {
  const rows = map.length;
  const columns = map[0].length;
  const small = h("canvas", { width: columns, height: rows });
  const pixels = new ImageData(columns, rows);
  map.flat().forEach((value, place) => {
    const level = most ? value / most : 0;
    pixels.data.set([255 - 30 * level, 205 - 165 * level, 60, 205 * Math.min(1, 1.7 * level)], 4 * place);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const large = h("canvas", { width: 320, height: Math.round((320 * rows) / columns) });
  const context = large.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, large.width, large.height);
  return large;
}
