// Questions about each answer, one answer at a time, then the ranking of all.

import { announce, h, segmented } from "./dom.js";
import { rankTask } from "./rank.js";
import { answerCard } from "./text.js";

export function rateTask(sheet, start, changed) {
  const { questions } = start;
  const ratings = Object.fromEntries(sheet.answers.map(({ letter }) => [letter, {}]));
  const ranking = sheet.answers.length > 1 ? rankTask(sheet, start, () => changed()) : null;
  const steps = [...sheet.answers.map(({ letter }) => letter), ...(ranking ? ["ranking"] : [])];
  const nav = h("nav", { class: "steps", "aria-label": "Steps" });
  const panel = h("div", { class: "step" });
  const side = h("div", { class: "step-side" });
  let step = 0;

  const unanswered = (letter) => questions.filter((one) => !one.optional && ratings[letter][one.name] === undefined);
  const done = (name) => (name === "ranking" ? ranking.problem() === null : unanswered(name).length === 0);

  function update() {
    nav.replaceChildren(
      ...steps.map((name, index) =>
        h(
          "button",
          { type: "button", class: "step-tab", "aria-current": index === step ? "step" : null, onclick: () => go(index) },
          name === "ranking" ? "Ranking" : `Answer ${name}`,
          done(name) && h("span", { class: "check", role: "img", "aria-label": "complete" }, "✓"),
        ),
      ),
    );
  }

  function answered(letter, question, value) {
    if (value === "") delete ratings[letter][question.name];
    else ratings[letter][question.name] = value;
    update();
    changed();
  }

  function show() {
    const name = steps[step];
    if (name === "ranking") {
      panel.replaceChildren(ranking.element);
      side.replaceChildren(ranking.side);
    } else {
      panel.replaceChildren(answerCard(sheet.answers[step]));
      side.replaceChildren(questionForm(name, questions, ratings[name], answered, () => show()));
    }
    update();
  }

  function go(index) {
    step = index;
    show();
    changed();
    const name = steps[step];
    announce(name === "ranking" ? "Ranking of all answers." : `Answer ${name}.`);
    (side.querySelector("h2") ?? panel).focus?.({ preventScroll: true });
    nav.scrollIntoView({ block: "start" });
  }

  show();
  return {
    element: h("div", {}, nav, panel),
    side,
    value: () => ({ ratings, ...(ranking ? ranking.value() : {}) }),
    problem: () => {
      for (const [index, name] of steps.entries()) {
        if (!done(name)) return { text: missingText(name, index), go: () => go(index) };
      }
      return null;
    },
    /** What the main button does before all is answered: the next step. */
    next: () => (step < steps.length - 1 ? { label: nextLabel(steps[step + 1]), blocked: blocked(), go: () => go(step + 1) } : null),
    restore: (value) => {
      for (const { letter } of sheet.answers) Object.assign(ratings[letter], value.ratings?.[letter] ?? {});
      if (ranking) ranking.restore(value);
      show();
    },
  };

  function blocked() {
    return done(steps[step]) ? null : missingText(steps[step], step);
  }

  function missingText(name) {
    if (name === "ranking") return ranking.problem();
    const left = unanswered(name);
    return `Answer ${name}: ${left.length} ${left.length === 1 ? "question is" : "questions are"} open (“${left[0].ask}”).`;
  }
}

const nextLabel = (name) => (name === "ranking" ? "Next: ranking" : `Next: answer ${name}`);

function questionForm(letter, questions, given, answered, redraw) {
  const open = () => questions.filter((one) => one.usual !== null && given[one.name] === undefined);
  const usual = () => {
    for (const question of open()) answered(letter, question, question.usual);
    redraw();
  };
  return h(
    "section",
    { class: "questions", "aria-labelledby": "questions-title" },
    h("h2", { id: "questions-title", tabindex: "-1" }, `About answer ${letter}`),
    questions.map((question) => questionRow(letter, question, given[question.name], answered)),
    h("button", { type: "button", class: "small", onclick: usual }, "Answer the rest as usual"),
  );
}

function questionRow(letter, question, value, answered) {
  const name = `${letter}-${question.name}`;
  const describe = question.help ? { "aria-describedby": `help-${name}` } : {};
  const scale = question.kind === "scale";
  const choices = scale ? numbers(question) : [[true, "Yes"], [false, "No"]];
  if (question.optional) choices.push(["", "n/a"]);
  const chosen = value === undefined && question.optional ? "" : value;
  return h(
    "div",
    { class: scale ? "question scale" : "question" },
    h(
      "div",
      { class: "question-text" },
      h("span", {}, question.ask),
      question.help && h("small", { class: "muted", id: `help-${name}` }, question.help),
    ),
    h(
      "div",
      { class: "question-answer" },
      segmented(name, question.ask, choices, chosen, (given) => answered(letter, question, given), describe),
      scale &&
        (question.low || question.high) &&
        h("div", { class: "ends muted" }, h("span", {}, `${question.lowest}: ${question.low}`), h("span", {}, `${question.highest}: ${question.high}`)),
    ),
  );
}

function numbers({ lowest, highest }) {
  return Array.from({ length: highest - lowest + 1 }, (_, place) => [lowest + place, String(lowest + place)]);
}
