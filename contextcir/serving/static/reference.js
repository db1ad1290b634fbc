// The reference picture of the search: shown, and cleared.

import { picture } from "./api.js";
import { $, h, icon, shortName } from "./dom.js";
import { uploaded } from "./uploads.js";

let shown = "";

/** Show the reference of a step. `clear` is called when it is taken away. */
export function showReference(step, clear) {
  const own = step.upload === null ? null : uploaded(step.upload);
  const key = own ? `upload ${step.upload}` : step.ref ? `id ${step.ref}` : "";
  $("reference-note").textContent = note(step, own);
  $("composer").classList.toggle("has-reference", Boolean(key));
  if (key === shown) return;
  shown = key;
  const place = $("reference");
  place.querySelector(".chosen")?.remove();
  $("choose").hidden = Boolean(key);
  if (!key) return;
  const name = own ? own.name : step.ref;
  place.append(
    h(
      "div.chosen",
      {},
      own ? preview(own) : picture(step.ref, 512, `Reference: ${name}`, { eager: true }),
      h("span.chosen-name", { title: name }, shortName(name)),
      h("button.clear", { type: "button", onclick: clear, "aria-label": "Take the reference away" }, icon("close")),
    ),
  );
}

function preview({ url, name }) {
  const image = h("img", { src: url, alt: `Reference: ${name}`, draggable: false });
  const frame = h("span.frame", {}, image);
  // Some formats that the server reads, such as TIFF, are unknown to browsers.
  image.addEventListener("error", () => {
    frame.classList.add("broken");
    frame.replaceChildren(icon("image"), h("span", {}, "No preview"));
  });
  return frame;
}

function note(step, own) {
  if (own) return "This picture stays in this tab: the address of the search does not carry it.";
  if (step.name && !step.ref) {
    return `The picture “${step.name}” was uploaded, which the address does not carry. Choose it again.`;
  }
  return "";
}
