// Save results as files.

import { h } from "./dom.js";

function save(name, type, content) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  const link = h("a", { href: url, download: name, hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Save what was asked and what was found. `found` is a list of { mode, results }. */
export function saveJson(query, found) {
  const record = { ...query, searched: found.map(({ mode, results }) => ({ mode, results })) };
  save("results.json", "application/json", `${JSON.stringify(record, null, 2)}\n`);
}

/** Save the results as a table, with a column for each fact. */
export function saveCsv(found) {
  const facts = [...new Set(found.flatMap(({ results }) => results.flatMap((one) => Object.keys(one.facts))))];
  const rows = found.flatMap(({ mode, results }) =>
    results.map((one) => [mode, one.rank, one.id, one.score, ...facts.map((name) => one.facts[name])]),
  );
  const lines = [["search", "rank", "id", "score", ...facts], ...rows].map((row) => row.map(cell).join(","));
  save("results.csv", "text/csv;charset=utf-8", `${lines.join("\r\n")}\r\n`);
}

function cell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "string") return String(value);
  // A spreadsheet would carry out a text that begins like a formula.
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
