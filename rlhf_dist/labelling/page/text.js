// Texts of users and models: formatted as the server made it, or plain, as they stand in the file.

import { h } from "./dom.js";
import { setting } from "./drafts.js";

const ROLES = { system: "System", user: "User", assistant: "Assistant", tool: "Tool" };

/** The server's HTML of a text. It is of rendering.py: no scripts, links, images or handlers, whatever the text was. */
export function formattedText(html) {
  const formatted = h("div", { class: "text formatted" });
  formatted.innerHTML = html;
  for (const wide of formatted.querySelectorAll("pre, table")) wide.tabIndex = 0; // keys can scroll them
  return formatted;
}

/** A text, in both forms; which is seen is the page's choice. */
export function shownText({ html, text }) {
  if (!text.trim()) return h("p", { class: "muted" }, "(empty)");
  return h("div", { class: "texts" }, formattedText(html), h("div", { class: "text plain", dir: "auto" }, text));
}

/** The first words of a text, without its formatting. */
export function firstWords({ html }) {
  const inert = document.createElement("template");
  inert.innerHTML = html;
  return inert.content.textContent.trim().replace(/\s+/g, " ").slice(0, 80) || "(empty)";
}

/** The prompt: one text, or the messages of a chat. */
export function shownPrompt(messages) {
  const single = messages.length === 1 && messages[0].role === "user";
  return h(
    "section",
    { class: "prompt", "aria-labelledby": "prompt-title" },
    h("h2", { id: "prompt-title", tabindex: "-1" }, "Prompt"),
    messages.map((message) =>
      h(
        "div",
        { class: `message ${message.role}` },
        !single && h("p", { class: "role" }, ROLES[message.role] ?? message.role),
        shownText(message),
      ),
    ),
  );
}

/** An answer's card; `controls` stand in its heading, `more` under the text. */
export function answerCard(answer, controls = null, more = null) {
  const title = `title-${answer.letter}`;
  return h(
    "article",
    { class: "answer", id: `answer-${answer.letter}`, "aria-labelledby": title },
    h(
      "div",
      { class: "answer-head" },
      h("h2", { id: title }, h("span", { class: "badge" }, answer.letter), h("span", { class: "hidden" }, `Answer ${answer.letter}`)),
      controls,
    ),
    shownText(answer),
    more,
  );
}

/** The button that changes between formatted and plain texts. */
export function bindPlainText(button) {
  const apply = (plain) => {
    document.documentElement.classList.toggle("plain-text", plain);
    button.setAttribute("aria-pressed", String(plain));
  };
  apply(setting.get("plain") === "yes");
  button.addEventListener("click", () => {
    const plain = button.getAttribute("aria-pressed") !== "true";
    setting.set("plain", plain ? "yes" : "no");
    apply(plain);
  });
}
