// The labeller's page: one task after the other. A judgement is shown as saved only when the server has it on its disk.

import { Refused, join, request } from "./api.js";
import { Clock } from "./clock.js";
import { compareTask } from "./compare.js";
import { demonstrateTask } from "./demonstrate.js";
import { announce, byId, h } from "./dom.js";
import * as drafts from "./drafts.js";
import { HELP, SKIP_REASONS, TITLES } from "./words.js";
import { rankTask } from "./rank.js";
import { rateTask } from "./rate.js";
import { bindPlainText, formattedText, shownPrompt } from "./text.js";

const TASKS = { rank: rankTask, compare: compareTask, rate: rateTask, demonstrate: demonstrateTask };
const LOOK_AGAIN_MS = 20000;
const ALIVE_MS = 60000;

const clock = new Clock();
let start = null; // what the server said at the beginning
let sheet = null; // what is before the labeller
let form = null; // of the task
let remarks = null; // note and flag
let busy = false;
let lookAgain = null;

addEventListener("pagehide", keepDraft);
addEventListener("hashchange", begin);
begin();

async function begin() {
  try {
    await join();
    start = await request("/api/start", { waiting });
  } catch (error) {
    return showMessage("You are not signed in", error.message);
  }
  drafts.forgetOld();
  byId("title").textContent = TITLES[start.task];
  byId("who").textContent = start.labeller;
  document.title = TITLES[start.task];
  bindOnce();
  await open("/api/task");
}

let bound = false;

function bindOnce() {
  if (bound) return;
  bound = true;
  bindPlainText(byId("raw"));
  bindGuidelines();
  bindHelp();
  bindSkip();
  byId("save").addEventListener("click", saveOrGoOn);
  byId("back").addEventListener("click", () => open(`/api/task?before=${encodeURIComponent(sheet?.assignment ?? "")}`));
  addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !document.querySelector("dialog[open]")) {
      event.preventDefault();
      saveOrGoOn();
    }
  });
  setInterval(() => clock.awake && sheet && request("/api/alive", { body: {} }).catch(() => {}), ALIVE_MS);
}

/** Fetches a task and shows it. */
async function open(path) {
  if (busy) return;
  keepDraft();
  setBusy(true);
  clearTimeout(lookAgain);
  try {
    const answer = await request(path, { waiting });
    setBusy(false);
    setStatus("");
    showProgress(answer.progress);
    if (answer.sheet) showSheet(answer.sheet);
    else if (!sheet || !path.includes("before")) showNothing(answer.progress);
  } catch (error) {
    setBusy(false);
    showMessage("This did not work", error.message);
  }
}

function showSheet(next) {
  sheet = next;
  form = TASKS[start.task](sheet, start, changed);
  remarks = makeRemarks();
  const draft = drafts.kept(sheet.id) ?? sheet.given;
  if (draft) {
    form.restore(draft);
    remarks.restore(draft);
  }
  clock.start(draft?.seconds ?? 0);
  const side = h("aside", { class: "side", "aria-label": "Beside the task" }, form.side, guidelines());
  byId("main").replaceChildren(
    h(
      "div",
      { class: `columns ${start.task}` },
      h("div", { class: "task" }, sheet.given && revisited(), shownPrompt(sheet.messages), form.element),
      side,
      remarks.element,
    ),
  );
  byId("bar").hidden = false;
  byId("back").disabled = sheet.first;
  byId("skip").disabled = false;
  updateSave();
  scrollTo(0, 0);
  byId("prompt-title").focus({ preventScroll: true });
}

function revisited() {
  const what = sheet.given.skipped ? `You skipped this prompt (${sheet.given.skipped}).` : "You judged this before.";
  return h(
    "div",
    { class: "notice" },
    h("p", {}, `${what} Saving replaces what you said.`),
    h("button", { type: "button", class: "small", onclick: leave }, "Leave it as it is"),
  );
}

function leave() {
  drafts.forget(sheet.id);
  sheet = null;
  open("/api/task");
}

function showNothing({ done }) {
  sheet = form = remarks = null;
  clock.stop();
  byId("main").replaceChildren(
    h(
      "section",
      { class: "message-page" },
      h("h2", { tabindex: "-1" }, done ? "Thank you: nothing is left for you" : "There is nothing for you yet"),
      h("p", {}, done ? `You have judged ${done}. All of it is saved.` : ""),
      h("p", { class: "muted" }, "If there is more for you later, it appears here by itself."),
    ),
  );
  byId("bar").hidden = false;
  byId("back").disabled = !done;
  byId("skip").disabled = byId("save").disabled = true;
  byId("main").querySelector("h2").focus({ preventScroll: true });
  lookAgain = setTimeout(() => open("/api/task"), LOOK_AGAIN_MS);
}

function showMessage(title, text) {
  sheet = form = remarks = null;
  byId("bar").hidden = true;
  byId("main").replaceChildren(
    h("section", { class: "message-page" }, h("h2", { tabindex: "-1" }, title), h("p", {}, text)),
  );
  byId("main").querySelector("h2").focus({ preventScroll: true });
}

function showProgress({ done, expected }) {
  byId("progress").hidden = false;
  const bar = byId("progress-bar");
  bar.max = Math.max(expected, done, 1);
  bar.value = done;
  byId("progress-text").textContent = done <= expected ? `${done} of about ${expected}` : `${done} done`;
}

function makeRemarks() {
  const note = h("textarea", { id: "note", rows: "2", maxlength: "5000", dir: "auto", oninput: changed });
  const why = h("input", { id: "flag-why", type: "text", maxlength: "2000", dir: "auto", oninput: changed });
  const flag = h("input", {
    id: "flag",
    type: "checkbox",
    onchange: () => {
      whyField.hidden = !flag.checked;
      changed();
    },
  });
  const whyField = h("label", { class: "field", for: "flag-why", hidden: true }, "What is the matter? (optional)", why);
  const element = h(
    "details",
    { class: "remarks" },
    h("summary", {}, "Note or flag"),
    h("label", { class: "field", for: "note" }, "Note, for whoever reads the judgements", note),
    h("label", { class: "check-field", for: "flag" }, flag, "Flag: someone should look at this prompt"),
    whyField,
  );
  return {
    element,
    value: () => ({ note: note.value, flag: flag.checked ? why.value.trim() || "flagged" : "" }),
    restore: (value) => {
      note.value = value.note ?? "";
      flag.checked = Boolean(value.flag);
      why.value = value.flag === "flagged" ? "" : (value.flag ?? "");
      whyField.hidden = !flag.checked;
      element.open = Boolean(value.note || value.flag);
    },
  };
}

function entered() {
  return { ...form.value(), ...remarks.value(), seconds: clock.seconds };
}

let draftTimer = null;

function changed() {
  updateSave();
  clearTimeout(draftTimer);
  draftTimer = setTimeout(keepDraft, 300);
}

let touched = false;

function keepDraft() {
  clearTimeout(draftTimer);
  if (sheet && form && !busy && touched) drafts.keep(sheet.id, entered());
}

for (const sign of ["input", "click", "keydown", "pointerup"]) addEventListener(sign, () => (touched = true));

function updateSave() {
  const next = form?.next?.();
  byId("save").textContent = next ? next.label : sheet?.given ? "Save the change" : "Save and go on";
  byId("save").disabled = busy || !form;
  if (!busy) setStatus("");
}

async function saveOrGoOn() {
  if (!form || busy) return;
  const next = form.next?.();
  if (next) return next.blocked ? complain({ text: next.blocked }) : next.go();
  const problem = form.problem();
  if (problem) return complain(typeof problem === "string" ? { text: problem } : problem);
  await send(entered());
}

function complain({ text, go }) {
  go?.();
  setStatus(text, "bad");
}

/** Sends a judgement until the server has it, then goes on. */
async function send(body) {
  keepDraft();
  setBusy(true);
  setStatus("Saving…");
  try {
    await request(`/api/judgements/${encodeURIComponent(sheet.id)}`, { body, waiting });
  } catch (error) {
    setBusy(false);
    if (!(error instanceof Refused) || ![404, 409].includes(error.status)) return setStatus(error.message, "bad");
    drafts.forget(sheet.id);
    sheet = null;
    await open("/api/task");
    return setStatus(error.message, "bad");
  }
  drafts.forget(sheet.id);
  sheet = null;
  setBusy(false);
  await open("/api/task");
  setStatus("Saved.", "good");
}

function waiting(why, seconds, now) {
  const kept = sheet ? " What you entered is kept." : "";
  setStatus(`${why}${kept} Trying again in ${seconds} s.`, "bad", h("button", { type: "button", class: "small", onclick: now }, "Try now"));
  byId("bar").hidden = false;
}

function setBusy(value) {
  busy = value;
  byId("main").toggleAttribute("inert", value);
  for (const id of ["back", "skip", "save"]) byId(id).disabled = value;
  if (!value && sheet) byId("back").disabled = sheet.first;
}

function setStatus(text, kind = "", button = null) {
  const status = byId("status");
  status.className = `status ${kind}`;
  status.replaceChildren(text, ...(button ? [" ", button] : []));
}

function guidelines() {
  if (!start.guidelines) return null;
  return h(
    "section",
    { class: "guidelines", "aria-labelledby": "guidelines-title", tabindex: "0" },
    h("h2", { id: "guidelines-title" }, "Guidelines"),
    formattedText(start.guidelines),
  );
}

function bindGuidelines() {
  const button = byId("guide");
  button.hidden = !start.guidelines;
  const apply = (seen) => {
    document.documentElement.classList.toggle("no-guidelines", !seen);
    button.setAttribute("aria-pressed", String(seen));
  };
  apply(drafts.setting.get("guidelines") !== "no");
  button.addEventListener("click", () => {
    const seen = button.getAttribute("aria-pressed") !== "true";
    drafts.setting.set("guidelines", seen ? "yes" : "no");
    apply(seen);
  });
}

function bindHelp() {
  byId("help-text").replaceChildren(
    h("dl", { class: "keys" }, HELP[start.task].flatMap(([key, meaning]) => [h("dt", {}, key), h("dd", {}, meaning)])),
  );
  byId("help").addEventListener("click", () => byId("help-dialog").showModal());
  byId("help-close").addEventListener("click", () => byId("help-dialog").close());
}

function bindSkip() {
  const dialog = byId("skip-dialog");
  byId("skip-reasons").replaceChildren(
    ...SKIP_REASONS.map((reason, index) => {
      const input = h("input", { type: "radio", name: "skip-reason", value: reason });
      input.checked = index === 0;
      return h("label", { class: "check-field" }, input, reason);
    }),
  );
  byId("skip").addEventListener("click", () => sheet && dialog.showModal());
  byId("skip-cancel").addEventListener("click", () => dialog.close());
  byId("skip-confirm").addEventListener("click", () => {
    const reason = dialog.querySelector("input:checked").value;
    const more = byId("skip-other").value.trim();
    dialog.close();
    byId("skip-other").value = "";
    announce("Skipped.");
    send({ skipped: more ? `${reason}: ${more}` : reason, ...remarks.value(), seconds: clock.seconds });
  });
}
