// The operator's page: progress and agreement over all labellers, anew every few seconds.

import { join, request } from "./api.js";
import { byId, h } from "./dom.js";

const EVERY_MS = 5000;

begin();

async function begin() {
  try {
    await join();
    await refresh();
  } catch (error) {
    byId("main").replaceChildren(h("section", { class: "message-page" }, h("h2", {}, "You are not signed in"), h("p", {}, error.message)));
  }
}

async function refresh() {
  const found = await request("/api/overview", { waiting });
  byId("status").textContent = `As of ${new Date().toLocaleTimeString()}`;
  byId("status").className = "status";
  byId("task").textContent = `Task: ${found.task}`;
  byId("main").replaceChildren(tiles(found), people(found.labellers), remarks(found.remarks));
  setTimeout(() => refresh().catch(begin), EVERY_MS);
}

function waiting(why, seconds) {
  byId("status").textContent = `${why} Trying again in ${seconds} s.`;
  byId("status").className = "status bad";
}

function tiles({ items, done, labellers, agreement }) {
  const judged = labellers.reduce((sum, one) => sum + one.judged, 0);
  const skipped = labellers.reduce((sum, one) => sum + one.skipped, 0);
  return h(
    "section",
    { class: "tiles", "aria-label": "At a glance" },
    tile("Judged", `${done} of ${items}`, h("progress", { max: items, value: done, "aria-label": "Judged by at least one" })),
    tile("Judgements", String(judged), h("p", { class: "muted" }, skipped ? `and ${skipped} skipped` : "none skipped")),
    tile("Agreement", percent(agreement), h("p", { class: "muted" }, agreement ? `of ${pairs(agreement)} of answers` : "no pair of answers ordered by two yet")),
  );
}

function tile(title, value, more) {
  return h("div", { class: "tile" }, h("h2", {}, title), h("p", { class: "tile-value" }, value), more);
}

function people(labellers) {
  const heads = ["Labeller", "Judged", "Skipped", "Flagged", "Median time", "Agrees with others", "Agrees with known", "Last"];
  return h(
    "section",
    {},
    h("h2", { id: "people" }, "Labellers"),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "people" },
      h(
        "table",
        {},
        h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
        h("tbody", {}, labellers.map(person)),
      ),
    ),
    h(
      "p",
      { class: "muted" },
      "Agreement: of the pairs of answers that two people both order, the share that both order alike; 50% is chance. Pairs that one of the two ties are counted, but do not change it. The command rlhf-dist judgements shows the same with intervals.",
    ),
  );
}

function person(one) {
  return h(
    "tr",
    {},
    h("th", { scope: "row", dir: "auto" }, one.name),
    h("td", {}, `${one.judged} of about ${one.expected}`),
    h("td", {}, String(one.skipped)),
    h("td", {}, String(one.flagged)),
    h("td", {}, one.seconds === null ? "–" : duration(one.seconds)),
    h("td", {}, percent(one.agreement), one.agreement && h("small", { class: "muted" }, ` of ${pairs(one.agreement)}`)),
    h("td", {}, percent(one.known), one.known && h("small", { class: "muted" }, ` of ${pairs(one.known)}`)),
    h("td", {}, one.last ? new Date(one.last).toLocaleString([], { dateStyle: "short", timeStyle: "short" }) : "–"),
  );
}

function remarks(found) {
  return h(
    "section",
    {},
    h("h2", {}, "Flags, notes and skips"),
    found.length
      ? h("ul", { class: "remark-list" }, found.map(remark))
      : h("p", { class: "muted" }, "None yet."),
  );
}

function remark(one) {
  const said = [["Flag", one.flag], ["Note", one.note], ["Skipped", one.skipped]].filter(([, text]) => text);
  return h(
    "li",
    {},
    h("p", { class: "muted" }, h("b", { dir: "auto" }, one.labeller), " on ", h("code", {}, one.prompt_id), ": ", h("span", { dir: "auto" }, one.prompt)),
    said.map(([kind, text]) => h("p", { dir: "auto" }, h("b", {}, `${kind}: `), text)),
  );
}

const percent = (found) => (found ? `${Math.round(found.share * 100)}%` : "–");
const pairs = (found) => `${found.pairs} pair${found.pairs === 1 ? "" : "s"}${found.tied_by_one ? `, ${found.tied_by_one} tied by one` : ""}`;
const duration = (seconds) => (seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`);
