// Conditions on the facts of the pictures, built from what /info says of the columns.

import { $, count, debounced, h } from "./dom.js";

const FEW = 8; // values that are shown as buttons

let columns = [];
let current = []; // conditions
let changed = () => {};

/** Build the panel. `onChange` gets the conditions. */
export function setUpFilters(found, onChange) {
  columns = found;
  changed = onChange;
  $("filters").replaceChildren(); // of other columns
  $("filters-toggle").hidden = !columns.length;
  $("filters-toggle").onclick = () => toggleFilters();
}

export function toggleFilters(on = $("filters").hidden) {
  if (!columns.length) return;
  $("filters").hidden = !on;
  $("filters-toggle").setAttribute("aria-expanded", String(on));
  if (on) $("filters").querySelector("input, button, select")?.focus();
}

/** Show conditions that come from elsewhere, such as the address. */
export function showFilters(conditions) {
  if (JSON.stringify(conditions) !== JSON.stringify(current) || !$("filters").children.length) {
    current = conditions;
    const kinds = { number: numberField, truth: choiceField, choice: choiceField, text: textField };
    const clear = h("button.plain.small", { type: "button", onclick: () => replace(() => false, []) }, "Clear all");
    $("filters").replaceChildren(...columns.map((column) => kinds[column.kind](column)), h("p.filters-end", {}, clear));
  }
  const used = new Set(current.map((one) => one.column)).size;
  $("filters-count").hidden = !used;
  $("filters-count").textContent = used;
  $("filters").querySelector(".filters-end").hidden = !used;
}

/** What the conditions say, for a sentence. */
export function describe(conditions) {
  const signs = { ">=": "≥", "<=": "≤", "!=": "≠" };
  const say = ({ column, operator = "=", value }) =>
    `${column} ${signs[operator] ?? operator} ${[].concat(value).join(" or ")}`;
  return conditions.map(say);
}

function replace(keep, added) {
  const next = [...current.filter(keep), ...added];
  if (JSON.stringify(next) === JSON.stringify(current)) return;
  current = next;
  changed(next);
}

const ofColumn = (column) => current.filter((one) => one.column === column.name);

function field(column, ...children) {
  return h("fieldset", {}, h("legend", {}, column.name), ...children);
}

function numberField(column) {
  const input = (operator, title, bound) => {
    const one = ofColumn(column).find((condition) => condition.operator === operator);
    const properties = { type: "number", placeholder: String(bound), step: column.whole ? 1 : "any" };
    const box = h("input", { ...properties, value: one ? one.value : "", "aria-label": `${column.name}, ${title}` });
    box.addEventListener(
      "input",
      debounced(400, () => {
        const value = box.value === "" ? [] : [{ column: column.name, operator, value: Number(box.value) }];
        replace((other) => other.column !== column.name || other.operator !== operator, value);
      }),
    );
    return box;
  };
  return field(
    column,
    h("div.range", {}, input(">=", "at least", column.least), h("span", {}, "to"), input("<=", "at most", column.most)),
  );
}

function choiceField(column) {
  const chosen = new Set(ofColumn(column).flatMap((one) => one.value));
  const set = () => {
    const value = column.choices.map((one) => one.value).filter((one) => chosen.has(one));
    const added = value.length ? [{ column: column.name, operator: "=", value }] : [];
    replace((other) => other.column !== column.name, added);
  };
  const boxes = column.choices.map(({ value, count: number }) => {
    const box = h("input", { type: "checkbox", checked: chosen.has(value) });
    box.addEventListener("change", () => {
      if (box.checked) chosen.add(value);
      else chosen.delete(value);
      set();
    });
    const name = column.kind === "truth" ? (value ? "yes" : "no") : value;
    return h("label.option", {}, box, h("span", {}, name), h("small", {}, count(number)));
  });
  return field(column, h(column.choices.length > FEW ? "div.options.many" : "div.options", {}, ...boxes));
}

function textField(column) {
  const one = ofColumn(column)[0];
  const list = h("datalist", { id: `values-of-${columns.indexOf(column)}` });
  list.append(...column.choices.map(({ value }) => h("option", { value })));
  const box = h("input", {
    type: "search",
    value: one ? [].concat(one.value)[0] : "",
    placeholder: `one of ${count(column.distinct)} values`,
    "aria-label": column.name,
  });
  box.setAttribute("list", list.id);
  box.addEventListener(
    "input",
    debounced(500, () => {
      const added = box.value ? [{ column: column.name, operator: "=", value: [box.value] }] : [];
      replace((other) => other.column !== column.name, added);
    }),
  );
  return field(column, box, list);
}
