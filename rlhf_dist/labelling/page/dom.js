// Elements made by hand: what comes from people or models is only ever put in as text, or as the server's safe HTML.

/** An element: properties that start with "on" are listeners, others attributes; false and null leave one out. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Says something to those who hear the page instead of seeing it. */
export function announce(text) {
  byId("live").textContent = text;
}

/** A set of radio buttons that look like one bar. `choices` are [value, label] pairs; `changed` is given the value. */
export function segmented(name, label, choices, chosen, changed, extra = {}) {
  return h(
    "div",
    { class: "segments", role: "radiogroup", "aria-label": label, ...extra },
    choices.map(([value, text]) => {
      const input = h("input", { type: "radio", name, value, onchange: () => changed(value) });
      input.checked = value === chosen;
      return h("label", { class: "segment" }, input, h("span", {}, text));
    }),
  );
}
