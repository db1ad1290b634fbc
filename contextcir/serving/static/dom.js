// Build elements. Text is only ever set as text: nothing that a user or a server says is read as HTML.

export const $ = (id) => document.getElementById(id);

/**
 * Make an element.
 * @param {string} tag Its name, with classes: "button.plain.small".
 * @param {Object} properties Properties (`onclick`, `hidden`), or attributes where a name has a dash or is `role`.
 * @param {...(Node|string|null|undefined|false)} children Nodes, and texts.
 */
export function h(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key.includes("-") || key === "role" || key === "for") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An icon of the sprite in index.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** Call a function when nothing has happened for a while. */
export function debounced(milliseconds, run) {
  let timer = 0;
  const later = (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...args), milliseconds);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}

/** The last part of an id that is a path. */
export const shortName = (id) => id.split("/").filter(Boolean).pop() ?? id;

export const count = (number) => number.toLocaleString("en");
