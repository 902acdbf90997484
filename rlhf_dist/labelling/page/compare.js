// Two answers side by side, and by how much one is better.

import { h } from "./dom.js";
import { answerCard } from "./text.js";

const CHOICES = [
  ["A", 3, "A is much better"],
  ["A", 2, "A is clearly better"],
  ["A", 1, "A is slightly better"],
  ["", 0, "About equal"],
  ["B", 1, "B is slightly better"],
  ["B", 2, "B is clearly better"],
  ["B", 3, "B is much better"],
];

export function compareTask(sheet, _start, changed) {
  let chosen = null;
  const inputs = CHOICES.map(([, , label], index) =>
    h("input", {
      type: "radio",
      name: "preference",
      value: index,
      "aria-label": label,
      onchange: () => {
        chosen = index;
        changed();
      },
    }),
  );
  const scale = h(
    "fieldset",
    { class: "preference" },
    h("legend", {}, "Which answer is better?"),
    h(
      "div",
      { class: "preference-scale" },
      CHOICES.map(([, , label], index) => h("label", { class: "preference-choice" }, inputs[index], h("span", {}, label))),
    ),
  );
  return {
    element: h("div", {}, h("section", { class: "pair", "aria-label": "Answers" }, sheet.answers.map((a) => answerCard(a))), scale),
    value: () => {
      if (chosen === null) return {};
      const [better, strength] = CHOICES[chosen];
      const ranking = { A: [["A"], ["B"]], B: [["B"], ["A"]], "": [["A", "B"]] }[better];
      return { ranking, strength };
    },
    problem: () => (chosen === null ? "Say which answer is better, or that they are equal." : null),
    restore: ({ ranking, strength }) => {
      const better = ranking?.length === 2 ? ranking[0][0] : "";
      chosen = strength == null ? -1 : CHOICES.findIndex((choice) => choice[0] === better && choice[1] === strength);
      if (chosen < 0) chosen = null;
      inputs.forEach((input, index) => (input.checked = index === chosen));
    },
  };
}
