// The labeller writes the answer.

import { h } from "./dom.js";

export function demonstrateTask(_sheet, _start, changed) {
  const count = h("p", { class: "muted", id: "count" }, "");
  const text = h("textarea", {
    id: "demonstration",
    rows: "12",
    dir: "auto",
    maxlength: "100000",
    "aria-describedby": "count",
    oninput: () => {
      update();
      changed();
    },
  });

  function update() {
    const words = text.value.trim() ? text.value.trim().split(/\s+/).length : 0;
    count.textContent = `${words} ${words === 1 ? "word" : "words"}. Markdown works; a draft is kept in this browser until you save.`;
  }

  update();
  return {
    element: h("section", { class: "writing" }, h("label", { for: "demonstration" }, h("h2", {}, "Your answer")), text, count),
    value: () => ({ demonstration: text.value }),
    problem: () => (text.value.trim() ? null : "Write an answer first, or skip this prompt."),
    restore: (value) => {
      text.value = value.demonstration ?? "";
      update();
    },
  };
}
