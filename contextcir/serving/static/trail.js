// The chain of references: how the search came to where it is.

import { picture } from "./api.js";
import { $, h, icon, shortName } from "./dom.js";
import { uploaded } from "./uploads.js";

/** Show the chain. `jump(place)` goes back to a step, `undo()` takes the last one away. */
export function showTrail(steps, jump, undo) {
  const nav = $("trail");
  nav.hidden = steps.length < 2;
  if (nav.hidden) return nav.replaceChildren();
  const items = steps.map((step, place) => {
    const last = place === steps.length - 1;
    const button = h(
      "button.step",
      { type: "button", disabled: last, onclick: () => jump(place), title: step.ref ?? step.name },
      face(step),
      h("span", {}, step.text || (step.ref || step.name ? shortName(step.name || step.ref) : "begin")),
    );
    if (last) button.setAttribute("aria-current", "step");
    button.setAttribute("aria-label", `Step ${place + 1}: ${step.ref ?? step.name ?? ""} ${step.text}`.trim());
    return h("li", {}, button);
  });
  nav.replaceChildren(
    h("ol", {}, ...items),
    h("button.plain.small", { type: "button", onclick: undo, title: "Undo the last step (u)" }, icon("undo"), "Undo"),
  );
  nav.querySelector("ol").scrollLeft = 1e6;
}

function face(step) {
  const own = step.upload === null ? null : uploaded(step.upload);
  if (own) return h("span.frame", {}, h("img", { src: own.url, alt: "" }));
  if (step.ref) return picture(step.ref, 128, "");
  return h("span.frame.blank", {}, icon(step.name ? "image" : "search"));
}
