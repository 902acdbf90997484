// What the page says, by task.

export const TITLES = {
  rank: "Rank the answers",
  compare: "Compare two answers",
  rate: "Rate the answers",
  demonstrate: "Write the answer",
};

export const SKIP_REASONS = [
  "I do not understand the prompt",
  "I do not know enough about the subject",
  "The prompt or an answer is broken",
  "I would rather not read this",
  "Another reason",
];

const ALWAYS = [
  ["Ctrl + Enter", "save and go on"],
  ["Back", "the judgement before this one, to look at it or to change it"],
  ["Skip…", "no judgement for this prompt; you are asked why"],
  ["Plain text", "all texts as they are, without formatting"],
  ["Your work", "is on the server's disk when the next task appears. What you have not saved yet is kept in this browser."],
];

const RANKING = [
  ["Mouse, finger", "click the answers on the board from best to worst, or drag them: onto a row for a tie, between two rows for a rank of its own"],
  ["Tab", "to an answer on the board"],
  ["↑ ↓", "one step up or down: into a tie, and out of it"],
  ["1 to 9", "that rank; whoever has it already is tied"],
  ["Home, End", "best, worst"],
  ["Delete", "no rank"],
];

export const HELP = {
  rank: [...RANKING, ...ALWAYS],
  compare: [["Tab, ← →", "to the scale under the answers, and along it"], ...ALWAYS],
  rate: [["Tab, ← →", "from question to question, and between the answers to one"], ...RANKING, ...ALWAYS],
  demonstrate: ALWAYS,
};
