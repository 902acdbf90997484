"""The page in a browser: every task by mouse, finger and keys; nothing lost, run or loaded; no barrier for anyone."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf_dist.labelling.judgements import Judgement, load_judgements
from tests.browser import (
    ATTACK,
    ATTACK_NAME,
    LOOKS,
    PHONE,
    WAIT_MS,
    WIDE,
    Watch,
    needs_chromium,
    sync_api,
    too_wide,
    violations,
)
from tests.labelling.serving import Server

pytestmark = [pytest.mark.slow, needs_chromium]
TASKS = ("rank", "compare", "rate", "demonstrate")


class Labelling:
    """A server, its files, and browser windows that look at it."""

    def __init__(self, folder: Path, chromium: Any) -> None:
        self.folder, self.chromium = folder, chromium
        self.out = folder / "out.jsonl"
        self.servers: list[Server] = []
        self.contexts: list[Any] = []
        self.names, self.guidelines = "ann,bob", "# Be fair\n\nTies are *welcome*."
        self.watch = Watch()

    def start(self, task: str, rows: list[dict[str, Any]] | None = None, *words: str) -> Server:
        """Starts the server, or starts it again with the same rows."""
        file = self.folder / "candidates.jsonl"
        if rows is not None:
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        guidelines = self.folder / "guidelines.md"
        guidelines.write_text(self.guidelines)
        given = [str(file), "--out", str(self.out), "--task", task, "--labellers", self.names, *words]
        self.servers.append(Server(*given, "--guidelines", str(guidelines)))
        return self.servers[-1]

    def window(self, name: str, **how: Any) -> Any:
        """A browser of its own, with the link of a labeller opened."""
        context = self.chromium.new_context(**({"viewport": WIDE} | how))
        context.set_default_timeout(WAIT_MS)
        self.contexts.append(context)
        return self.tab(context, name)

    def tab(self, context: Any, name: str) -> Any:
        page = self.watch.tab(context)
        page.goto(self.servers[-1].link(name))
        page.wait_for_selector("#prompt-title, table, .message-page")
        return page

    @property
    def judgements(self) -> list[Judgement]:
        return load_judgements(str(self.out))

    def close(self) -> None:
        while self.contexts:
            self.contexts.pop().close()
        for server in self.servers:
            if server.process.poll() is None:
                server.kill()


@pytest.fixture
def labelling(tmp_path: Path, chromium: Any) -> Iterator[Labelling]:
    made = Labelling(tmp_path, chromium)
    yield made
    made.close()


def prompts(count: int = 3, answers: int = 3) -> list[dict[str, Any]]:
    names = "abcdefghi"[:answers]
    return [{"prompt": f"prompt {n}", "answers": [{"text": f"{n} {x}"} for x in names]} for n in range(count)]


def texts(judgement: Judgement) -> list[list[str]]:
    """The ranking in the letters that the page showed."""
    letters = {answer.id: "ABCDEFGHI"[place] for place, answer in enumerate(judgement.answers)}
    return [[letters[answer] for answer in tied] for tied in judgement.ranking]


def saved(page: Any) -> None:
    sync_api.expect(page.locator("#status")).to_have_text("Saved.", timeout=WAIT_MS)


def chip(page: Any, letter: str) -> Any:
    return page.locator(f'.board [data-letter="{letter}"]')


def test_the_secret_leaves_the_address_bar_and_no_script_can_read_it(labelling: Labelling) -> None:
    server = labelling.start("rank", prompts())
    page = labelling.window("ann")
    assert page.url == server.address and page.evaluate("document.cookie") == ""
    (cookie,) = page.context.cookies()
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
    page.reload()
    page.wait_for_selector("#prompt-title")
    assert page.locator("#who").text_content() == "ann"
    page.goto(server.address + "#wrong")
    sync_api.expect(page.get_by_text("This link is not valid")).to_be_visible()


def test_answers_are_ranked_by_keys_alone(labelling: Labelling) -> None:
    labelling.start("rank", prompts(answers=4))
    page = labelling.window("ann")
    for _ in range(40):  # from the prompt on, to the first answer on the board
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.letter") == "A":
            break
    for _ in range(4):
        page.keyboard.press("Enter")  # each takes the next rank, and the next one has the focus
    chip(page, "D").focus()
    page.keyboard.press("ArrowUp")  # tied with C
    page.keyboard.press("ArrowUp")  # between B and C
    sync_api.expect(page.locator("#live")).to_have_text("Answer D: rank 3.")
    chip(page, "A").focus()
    page.keyboard.press("ArrowDown")
    sync_api.expect(page.locator("#live")).to_have_text("Answer A: rank 1, best, tied with B.")
    chip(page, "C").focus()
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement.dataset.letter") == "C", "the focus is lost when the board changes"
    page.keyboard.press("Control+Enter")
    saved(page)
    assert texts(labelling.judgements[0]) == [["C"], ["A", "B"], ["D"]]


def test_digits_set_ranks_and_delete_takes_them_away(labelling: Labelling) -> None:
    labelling.start("rank", prompts())
    page = labelling.window("ann")
    for letter, digit in (("A", "1"), ("B", "1"), ("C", "2")):
        chip(page, letter).focus()
        page.keyboard.press(digit)
    page.keyboard.press("Delete")
    page.keyboard.press("Control+Enter")
    sync_api.expect(page.locator("#status")).to_have_text("Answer C has no rank yet.")
    assert labelling.out.read_text() == ""
    page.keyboard.press("2")
    page.keyboard.press("Control+Enter")
    saved(page)
    assert texts(labelling.judgements[0]) == [["A", "B"], ["C"]]


def middle(target: Any) -> tuple[float, float]:
    box = target.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag_by_mouse(page: Any, source: Any, target: Any) -> None:
    page.mouse.move(*middle(source))
    page.mouse.down()
    x, y = middle(source)
    page.mouse.move(x + 9, y + 9)
    page.mouse.move(*middle(target), steps=4)
    page.mouse.move(*middle(target))  # gaps have grown meanwhile
    page.mouse.up()


def drag_by_finger(page: Any, source: Any, target: Any) -> None:
    source.scroll_into_view_if_needed()
    session = page.context.new_cdp_session(page)

    def send(kind: str, *points: tuple[float, float]) -> None:
        touches = [{"x": x, "y": y} for x, y in points]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    x, y = middle(source)
    send("touchStart", (x, y))
    send("touchMove", (x + 9, y + 9))
    send("touchMove", middle(target))
    send("touchMove", middle(target))
    send("touchEnd")


@pytest.mark.parametrize(
    ("drag", "how"),
    [(drag_by_mouse, {"viewport": WIDE}), (drag_by_finger, {"viewport": PHONE, "has_touch": True, "is_mobile": True})],
    ids=["mouse", "finger"],
)
def test_answers_are_dragged_into_order_onto_one_another_and_between(
    labelling: Labelling, drag: Callable[[Any, Any, Any], None], how: dict[str, Any]
) -> None:
    labelling.start("rank", prompts(answers=4))
    page = labelling.window("ann", **how)
    drop = page.locator(".board [data-drop]")
    drag(page, chip(page, "A"), drop.and_(page.locator('[data-drop="insert 0"]')))
    drag(page, chip(page, "B"), page.locator('[data-drop="tie 0"]'))
    drag(page, chip(page, "C"), page.locator('[data-drop="insert 1"]'))
    drag(page, chip(page, "D"), page.locator('[data-drop="insert 1"]'))
    drag(page, chip(page, "C"), page.locator('[data-drop="remove"]'))
    assert chip(page, "C").get_attribute("aria-label") == "Answer C, not ranked"
    drag(page, chip(page, "C"), page.locator('[data-drop="insert 0"]'))
    page.locator("#save").click()
    saved(page)
    assert texts(labelling.judgements[0]) == [["C"], ["A", "B"], ["D"]]


def test_an_order_holds_each_answer_at_most_once_whatever_is_done(labelling: Labelling) -> None:
    labelling.start("rank", prompts())
    page = labelling.window("ann")
    wrong = page.evaluate("""async () => {
        const { Order } = await import("/page/order.js");
        let state = 1;
        const random = (below) => (state = (state * 48271) % 2147483647) % below;
        const letters = ["A", "B", "C", "D", "E"];
        const order = new Order(letters);
        for (let step = 0; step < 20000; step += 1) {
            const letter = letters[random(5)];
            const before = JSON.stringify(order.groups);
            const ranked = order.rankOf(letter) >= 0;
            const kind = random(5);
            const rank = random(7);
            if (kind === 0) order.tie(letter, rank);
            if (kind === 1) order.insert(letter, rank);
            if (kind === 2) order.step(letter, random(2) ? 1 : -1);
            if (kind === 3) order.setRank(letter, rank + 1);
            if (kind === 4 && random(3) === 0) order.remove(letter);
            const flat = order.groups.flat();
            const lost = ranked && kind !== 4 && order.rankOf(letter) < 0;
            if (lost || order.groups.some((group) => !group.length) || new Set(flat).size !== flat.length
                || flat.length + order.unranked.length !== 5) return [before, kind, letter, rank, order.groups];
        }
        return null;
    }""")
    assert wrong is None


def test_two_answers_are_compared_by_keys(labelling: Labelling) -> None:
    labelling.start("compare", prompts(answers=2))
    page = labelling.window("ann")
    page.keyboard.press("Control+Enter")
    sync_api.expect(page.locator("#status")).to_have_text("Say which answer is better, or that they are equal.")
    page.locator("input[name=preference]").first.focus()
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    assert page.get_by_label("A is clearly better").is_checked()
    page.keyboard.press("Control+Enter")
    saved(page)
    page.get_by_text("About equal").click()
    page.locator("#save").click()
    sync_api.expect(page.locator("#progress-text")).to_have_text("2 of about 2")
    first, second = labelling.judgements
    assert (texts(first), first.strength) == ([["A"], ["B"]], 2)  # clearly better
    assert (texts(second), second.strength) == ([["A", "B"]], 0)


def test_answers_are_rated_one_by_one_then_ranked(labelling: Labelling) -> None:
    labelling.start("rate", prompts(answers=2))
    page = labelling.window("ann")
    page.locator("#save").click()
    sync_api.expect(page.locator("#status")).to_contain_text("Answer A: 11 questions are open (“Overall quality”)")
    for letter, quality in (("A", 6), ("B", 2)):
        page.get_by_role("radiogroup", name="Overall quality").get_by_role("radio", name=str(quality)).check()
        page.get_by_role("radiogroup", name="Hallucination").get_by_role("radio", name="Yes").check()
        page.get_by_text("Answer the rest as usual").click()
        sync_api.expect(page.locator(".step-tab[aria-current]")).to_contain_text(f"Answer {letter}")
        page.locator("#save").click()
    chip(page, "B").click()
    chip(page, "A").click()
    page.locator("#save").click()
    saved(page)
    (kept,) = labelling.judgements
    assert texts(kept) == [["B"], ["A"]]
    quality = [kept.ratings[answer.id]["overall"] for answer in kept.answers]
    assert quality == [6, 2]
    for given in kept.ratings.values():
        assert given["hallucination"] is True and given["violent_content"] is False
        assert "satisfies_constraint" not in given and len(given) == 11


def test_a_draft_outlives_a_reload_and_a_kill_of_the_server_and_is_gone_when_it_is_saved(labelling: Labelling) -> None:
    labelling.start("demonstrate", prompts())
    page = labelling.window("ann")
    page.locator("#demonstration").fill("Half an ans")
    page.locator("summary").click()
    page.locator("#note").fill("a note")
    page.reload()
    sync_api.expect(page.locator("#demonstration")).to_have_value("Half an ans")
    sync_api.expect(page.locator("#note")).to_have_value("a note")
    labelling.servers[-1].kill()
    labelling.start("demonstrate")
    page.reload()
    sync_api.expect(page.locator("#demonstration")).to_have_value("Half an ans")
    page.locator("#demonstration").press("End")
    page.keyboard.type("wer.")
    page.locator("#save").click()
    saved(page)
    assert page.locator("#demonstration").input_value() == ""
    assert page.evaluate("Object.keys(localStorage).filter((key) => key.includes('draft'))") == []
    (kept,) = labelling.judgements
    assert (kept.demonstration, kept.note) == ("Half an answer.", "a note")


def test_a_judgement_made_while_the_server_is_away_is_sent_when_it_is_back(labelling: Labelling) -> None:
    labelling.start("demonstrate", prompts())
    page = labelling.window("ann")
    page.locator("#demonstration").fill("My answer.")
    labelling.servers[-1].kill()
    page.locator("#save").click()
    said = page.locator("#status")
    sync_api.expect(said).to_contain_text("The server cannot be reached. What you entered is kept. Trying again in")
    labelling.start("demonstrate")
    if page.get_by_text("Try now").count():
        page.get_by_text("Try now").click(timeout=2000)
    saved(page)
    assert [one.demonstration for one in labelling.judgements] == ["My answer."]


def test_a_full_disk_is_said_and_the_judgement_is_kept_when_there_is_room(labelling: Labelling) -> None:
    server = labelling.start("demonstrate", prompts())
    page = labelling.window("ann")
    page.locator("#demonstration").fill("My answer.")
    _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (10, hard))
    page.locator("#save").click()
    sync_api.expect(page.locator("#status")).to_contain_text("The server cannot write to its disk")
    assert labelling.out.read_text() == ""
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    saved(page)
    assert len(labelling.judgements) == 1


def test_of_two_tabs_one_judges_and_the_other_is_told(labelling: Labelling) -> None:
    labelling.start("demonstrate", prompts())
    first = labelling.window("ann")
    second = labelling.tab(first.context, "ann")
    assert first.locator(".prompt").inner_text() == second.locator(".prompt").inner_text()
    first.locator("#demonstration").fill("The first.")
    second.locator("#demonstration").fill("The second.")
    first.locator("#save").click()
    saved(first)
    second.locator("#save").click()
    sync_api.expect(second.locator("#status")).to_contain_text("already judged this in another tab")
    assert first.locator(".prompt").inner_text() == second.locator(".prompt").inner_text()
    assert [one.demonstration for one in labelling.judgements] == ["The first."]


def test_one_goes_back_changes_a_judgement_and_skips_another(labelling: Labelling) -> None:
    labelling.start("demonstrate", prompts(4), "--shared", "1")
    page = labelling.window("ann")
    assert page.locator("#back").is_disabled()
    page.locator("#demonstration").fill("First try.")
    page.locator("#save").click()
    saved(page)
    page.locator("#demonstration").fill("Begun.")
    page.locator("#back").click()
    sync_api.expect(page.locator(".notice")).to_contain_text("You judged this before.")
    sync_api.expect(page.locator("#demonstration")).to_have_value("First try.")
    page.locator("#demonstration").fill("Second try.")
    page.locator("#save").click()
    saved(page)
    sync_api.expect(page.locator("#demonstration")).to_have_value("Begun.")
    page.locator("#skip").click()
    page.get_by_text("The prompt or an answer is broken").click()
    page.locator("#skip-other").fill("no verb")
    page.locator("#skip-confirm").click()
    saved(page)
    kept = {one.demonstration or one.skipped for one in labelling.judgements}
    assert kept == {"Second try.", "The prompt or an answer is broken: no verb"}


def answer(page: Any, task: str) -> None:
    """Gives what a task asks for, of two answers."""
    if task == "demonstrate":
        page.locator("#demonstration").fill(ATTACK)
    if task == "compare":
        page.get_by_text("About equal").click()
    for _ in range(2 if task == "rate" else 0):
        page.get_by_role("radio", name="2", exact=True).check()
        page.locator("#save").click()
    for letter in "AB" if task in ("rank", "rate") else "":
        chip(page, letter).click()


@pytest.mark.parametrize("task", TASKS)
def test_what_is_injected_is_shown_as_text_runs_nothing_and_loads_nothing(labelling: Labelling, task: str) -> None:
    rows = [{"prompt": f"{n} {ATTACK}", "answers": [{"text": f"{x} {ATTACK}"} for x in "ab"]} for n in range(2)]
    labelling.names, labelling.guidelines = f"ann,{ATTACK_NAME}", ATTACK
    asked = {"name": "q", "ask": ATTACK, "help": ATTACK, "kind": "scale", "lowest": 1, "highest": 2, "low": ATTACK}
    questions = labelling.folder / "questions.yaml"
    questions.write_text(json.dumps({"questions": [asked | {"high": ATTACK}]}))
    words = ["--questions", str(questions)] if task == "rate" else []
    server = labelling.start(task, rows, "--shared", "1", *words)
    page = labelling.window("ann")
    sync_api.expect(page.locator(".formatted").first).to_contain_text("<script>alert(1)</script>")
    for place in (".guidelines", ".rate" if task == "rate" else ".prompt"):
        assert "{{7+7}} ${7+7} <%= 7+7 %>" in page.locator(place).first.inner_text(), place
    answer(page, task)
    page.locator("summary").click()
    page.locator("#note").fill(ATTACK)
    page.locator("#flag").check()
    page.locator("#flag-why").fill(ATTACK)
    page.locator("#raw").click()
    assert ATTACK in page.locator(".plain").first.inner_text()
    page.locator("#save").click()
    saved(page)
    page.locator("#back").click()
    sync_api.expect(page.locator(".notice")).to_contain_text("You judged this before.")
    assert page.locator("#note").input_value() == ATTACK
    assert page.locator("main a, main img, main script, main style, main iframe, main meta, main base").count() == 0
    operator = labelling.window("operator")
    sync_api.expect(operator.locator(".remark-list")).to_contain_text(ATTACK)
    sync_api.expect(operator.locator("table")).to_contain_text(ATTACK_NAME)
    assert not labelling.watch.complaints
    assert all(url.startswith(server.address) for url in labelling.watch.loads)


def test_right_to_left_text_and_code_are_shown_right(labelling: Labelling) -> None:
    answers = [{"text": "שלום עולם\n\n```\nx = 1\n```"}, {"text": "Hello"}]
    labelling.start("rank", [{"prompt": "مرحبا", "answers": answers}])
    page = labelling.window("ann")
    direction = "element => getComputedStyle(element).direction"
    assert page.locator(".prompt .formatted p").evaluate(direction) == "rtl"
    assert page.get_by_text("שלום עולם").first.evaluate(direction) == "rtl"
    assert page.locator(".formatted pre").evaluate(direction) == "ltr"
    assert page.locator(".formatted p", has_text="Hello").evaluate(direction) == "ltr"
    page.locator("#raw").click()
    assert page.locator(".plain", has_text="x = 1").inner_text() == answers[0]["text"]


def test_time_in_which_nothing_is_done_does_not_count(labelling: Labelling) -> None:
    labelling.start("demonstrate", prompts())
    page = labelling.window("ann")
    page.clock.install()
    page.reload()
    page.wait_for_selector("#demonstration")
    page.locator("#demonstration").fill("a")
    page.clock.fast_forward(30_000)  # thinks
    page.locator("#demonstration").fill("ab")
    page.clock.fast_forward(3_600_000)  # is away
    page.locator("#demonstration").fill("abc")
    page.locator("#save").click()
    saved(page)
    assert 80 <= labelling.judgements[0].seconds <= 110  # thought, and the minute until the clock stops


def test_guidelines_stand_beside_the_task_until_they_are_hidden(labelling: Labelling) -> None:
    labelling.start("rank", prompts())
    page = labelling.window("ann")
    sync_api.expect(page.locator(".guidelines")).to_contain_text("Ties are welcome.")
    page.locator("#guide").click()
    page.reload()
    page.wait_for_selector("#prompt-title")
    assert page.locator(".guidelines").is_hidden()


@pytest.mark.parametrize("task", TASKS)
def test_no_page_has_an_accessibility_violation_or_is_wider_than_its_window(labelling: Labelling, task: str) -> None:
    """A labeller for each look: the server starts once for all."""
    answers = [{"text": "```\n" + "x" * 300}, {"text": "| a |\n|-|\n| b |"}]
    labelling.names = ",".join(LOOKS)
    labelling.guidelines += "\n\nBe patient." * 60
    labelling.start(task, [{"prompt": "# Code\n\n> quote\n\n[l](http://a)", "answers": answers}], "--shared", "1")
    found = [one for look in LOOKS for one in barriers(labelling, task, look)]
    assert not found
    assert not labelling.watch.complaints


def barriers(labelling: Labelling, task: str, look: str) -> list[str]:
    """What is wrong with the labeller's page in all its states, and with the operator's."""
    page = labelling.window(look, **LOOKS[look])
    found = violations(page, "the task", look)
    for dialog in ("help", "skip"):
        page.locator(f"#{dialog}").click()
        found += violations(page, dialog, look)
        page.keyboard.press("Escape")
    if task == "rate":
        for _ in range(2):
            page.get_by_role("radiogroup", name="Overall quality").get_by_role("radio", name="5").check()
            page.get_by_text("Answer the rest as usual").click()
            page.locator("#save").click()
        found += violations(page, "the ranking after the ratings", look)
    page.locator("summary").click()
    page.locator("#flag").check()
    page.locator("#save").click()
    found += violations(page, "an open flag and a message", look) + too_wide(page, "the task")
    page.locator("#skip").click()
    page.locator("#skip-confirm").click()
    page.wait_for_selector(".message-page")
    found += violations(page, "the end", look)
    operator = labelling.window("operator", **LOOKS[look])
    return found + violations(operator, "the operator's page", look) + too_wide(operator, "the operator's page")
