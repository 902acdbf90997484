// The ranking of answers: a board on which they are put in order by mouse, finger or keys; ties share a row.

import { announce, h } from "./dom.js";
import { Order } from "./order.js";
import { answerCard, firstWords } from "./text.js";

const FAR = 6; // pixels after which a press is a drag

export function rankTask(sheet, _start, changed) {
  const board = new Board(sheet.answers, () => {
    update();
    changed();
  });
  const places = {};
  const cards = sheet.answers.map((answer) => {
    places[answer.letter] = h("div", { class: "place" });
    return answerCard(answer, places[answer.letter]);
  });

  function update() {
    for (const { letter } of sheet.answers) places[letter].replaceChildren(...controls(board, letter));
  }

  update();
  return {
    element: h("section", { class: "answers", "aria-label": "Answers" }, cards),
    side: board.element,
    value: () => ({ ranking: board.order.groups }),
    problem: () => board.problem(),
    restore: (value) => {
      board.restore(value.ranking);
      update();
    },
  };
}

function controls(board, letter) {
  const rank = board.order.rankOf(letter);
  const move = (direction) => () => board.act(letter, (order) => order.step(letter, direction), false);
  if (rank < 0) {
    const next = board.order.groups.length + 1;
    const place = () => board.act(letter, (order) => order.insert(letter, next), false);
    return [h("button", { type: "button", class: "small", onclick: place }, `Rank ${next}`)];
  }
  return [
    h("span", { class: "place-text" }, capital(board.order.describe(letter))),
    h("button", { type: "button", class: "small icon", "aria-label": `Answer ${letter} is better`, onclick: move(-1) }, "↑"),
    h("button", { type: "button", class: "small icon", "aria-label": `Answer ${letter} is worse`, onclick: move(1) }, "↓"),
  ];
}

/** The board beside the answers. */
export class Board {
  constructor(answers, changed) {
    this.answers = answers;
    this.changed = changed;
    this.order = new Order(answers.map((answer) => answer.letter));
    this.rows = h("div", { class: "rows" });
    this.element = h(
      "section",
      { class: "board", "aria-labelledby": "board-title" },
      h("h2", { id: "board-title" }, "Your ranking"),
      h("p", { class: "muted hint" }, "Click answers from best to worst, or drag them. Answers that are equally good share a row."),
      this.rows,
    );
    this.render();
  }

  restore(groups) {
    const known = new Set(this.order.letters);
    this.order = new Order(this.order.letters, (groups ?? []).filter((group) => group.every((one) => known.has(one))));
    this.render();
  }

  problem() {
    const left = this.order.unranked;
    if (!left.length) return null;
    return left.length === 1 ? `Answer ${left[0]} has no rank yet.` : `Answers ${left.join(", ")} have no rank yet.`;
  }

  /** Changes the order by `change`, shows it, and says where the letter is now. */
  act(letter, change, focus = true) {
    const before = JSON.stringify(this.order.groups);
    change(this.order);
    if (JSON.stringify(this.order.groups) !== before) {
      this.render();
      this.changed();
    }
    if (focus) this.element.querySelector(`[data-letter="${letter}"]`)?.focus({ preventScroll: true });
    announce(`Answer ${letter}: ${this.order.describe(letter)}.`);
  }

  render() {
    const { groups, unranked } = this.order;
    const rows = groups.flatMap((group, rank) => [this.gap(rank), this.row(group, rank)]);
    this.rows.replaceChildren(...rows, this.gap(groups.length), this.tray(unranked));
  }

  gap(rank) {
    return h("div", { class: "gap", "data-drop": `insert ${rank}` });
  }

  row(group, rank) {
    const ends = { 0: "best", [this.order.letters.length - 1]: "worst" };
    return h(
      "div",
      { class: "row-of-rank", "data-drop": `tie ${rank}`, role: "group", "aria-label": `Rank ${rank + 1}` },
      h("span", { class: "rank-number", "aria-hidden": "true" }, String(rank + 1), ends[rank] && h("small", {}, ends[rank])),
      h("div", { class: "chips" }, group.map((letter) => this.chip(letter))),
    );
  }

  tray(unranked) {
    return h(
      "div",
      { class: "tray", "data-drop": "remove", role: "group", "aria-label": "Not yet ranked" },
      h("span", { class: "muted" }, unranked.length ? "Not yet ranked" : "All are ranked"),
      h("div", { class: "chips" }, unranked.map((letter) => this.chip(letter))),
    );
  }

  chip(letter) {
    const answer = this.answers.find((one) => one.letter === letter);
    const chip = h(
      "button",
      {
        type: "button",
        class: "chip",
        "data-letter": letter,
        "aria-label": `Answer ${letter}, ${this.order.describe(letter)}`,
        onclick: () => this.click(letter),
        onkeydown: (event) => this.key(letter, event),
      },
      h("span", { class: "badge" }, letter),
      h("span", { class: "words", dir: "auto" }, firstWords(answer)),
    );
    chip.addEventListener("pointerdown", (event) => this.press(letter, chip, event));
    return chip;
  }

  click(letter) {
    if (this.dragged) return;
    if (this.order.rankOf(letter) < 0) {
      const left = this.order.unranked;
      const next = left[(left.indexOf(letter) + 1) % left.length];
      this.act(letter, (order) => order.insert(letter, order.groups.length), false);
      this.element.querySelector(`[data-letter="${next}"]`)?.focus({ preventScroll: true });
    } else {
      document.getElementById(`answer-${letter}`)?.scrollIntoView({ block: "center" });
    }
  }

  key(letter, event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const actions = {
      ArrowUp: (order) => order.step(letter, -1),
      ArrowDown: (order) => order.step(letter, 1),
      Home: (order) => order.insert(letter, 0),
      End: (order) => order.insert(letter, order.groups.length),
      Delete: (order) => order.remove(letter),
      Backspace: (order) => order.remove(letter),
    };
    const digit = /^[1-9]$/.test(event.key) && ((order) => order.setRank(letter, Number(event.key)));
    const action = actions[event.key] ?? digit;
    if (!action) return;
    event.preventDefault();
    this.act(letter, action);
  }

  /** A press on a chip that may become a drag. */
  press(letter, chip, down) {
    this.dragged = false;
    if (down.button !== 0) return;
    chip.setPointerCapture(down.pointerId);
    let ghost = null;
    let target = null;
    const move = (event) => {
      const [x, y] = [event.clientX - down.clientX, event.clientY - down.clientY];
      if (!ghost && Math.hypot(x, y) < FAR) return;
      if (!ghost) ghost = this.lift(chip);
      ghost.style.transform = `translate(${x}px, ${y}px)`;
      target = this.target(event, target);
    };
    const end = (event) => {
      chip.removeEventListener("pointermove", move);
      chip.removeEventListener("pointerup", end);
      chip.removeEventListener("pointercancel", end);
      ghost?.remove();
      chip.classList.remove("lifted");
      this.element.classList.remove("dragging");
      target?.classList.remove("over");
      this.dragged = ghost !== null;
      if (event.type === "pointerup" && target) this.drop(letter, target.dataset.drop);
    };
    chip.addEventListener("pointermove", move);
    chip.addEventListener("pointerup", end);
    chip.addEventListener("pointercancel", end);
  }

  lift(chip) {
    const box = chip.getBoundingClientRect();
    const ghost = chip.cloneNode(true);
    ghost.className = "chip ghost";
    ghost.setAttribute("aria-hidden", "true");
    Object.assign(ghost.style, { left: `${box.left}px`, top: `${box.top}px`, width: `${box.width}px` });
    document.body.append(ghost);
    chip.classList.add("lifted");
    this.element.classList.add("dragging");
    return ghost;
  }

  target(event, before) {
    const found = document.elementFromPoint(event.clientX, event.clientY)?.closest("[data-drop]") ?? null;
    if (found !== before) {
      before?.classList.remove("over");
      found?.classList.add("over");
    }
    return found;
  }

  drop(letter, where) {
    const [action, rank] = where.split(" ");
    const actions = {
      insert: (order) => order.insert(letter, Number(rank)),
      tie: (order) => order.tie(letter, Number(rank)),
      remove: (order) => order.remove(letter),
    };
    this.act(letter, actions[action]);
  }
}

const capital = (text) => text[0].toUpperCase() + text.slice(1);
