"""Judges that are no people: functions, reward models, and endpoints that are slow, lie or send rubbish."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from rlhf_dist.__main__ import main
from rlhf_dist.engine import http_client
from rlhf_dist.engine.chat_judge import read_verdict
from rlhf_dist.labelling.candidates import Answer
from rlhf_dist.labelling.judgements import Judgement, load_judgements
from rlhf_dist.labelling.judging import Verdict, both_ways, ranking_by_pairs, ranking_by_scores
from tests.tiny import write_jsonl, write_reward_model

Reply = Callable[[str], Any]  # the prompt to the reply's text, or a response
ANSWERS = tuple(Answer(name, f"answer {name}") for name in "abcd")


class Endpoint:
    """A chat endpoint on loopback that replies as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.reply: Reply = lambda text: "A"
        self.seen: list[tuple[dict[str, Any], str | None]] = []
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._started.wait(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        self._runner = web.AppRunner(app)
        self._loop.run_until_complete(self._runner.setup())
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        self._started.set()
        self._loop.run_forever()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append((body, request.headers.get("Authorization")))
        reply = await asyncio.to_thread(self.reply, body["messages"][0]["content"])
        if isinstance(reply, web.StreamResponse):
            return reply
        return web.json_response({"choices": [{"message": {"role": "assistant", "content": reply}}]})

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.close()


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(http_client, "_FIRST_PAUSE_S", 0.01)
    server = Endpoint()
    yield server
    server.close()


@pytest.fixture
def candidates(tmp_path: Path) -> Path:
    texts = ["short", "much longer", "middling"]
    rows = [
        {"prompt": f"Prompt {n}", "answers": [{"id": f"{n}{place}", "text": text} for place, text in enumerate(texts)]}
        for n in range(3)
    ]
    return write_jsonl(tmp_path / "c.jsonl", rows)


def judge(candidates: Path, *words: str, expect: int = 0) -> list[Judgement]:
    out = candidates.with_name("j.jsonl")
    assert main(["judge", str(candidates), "--out", str(out), *words]) == expect
    return load_judgements(str(out)) if out.exists() else []


def longer(text: str) -> str:
    """The judge that prefers the longer answer."""
    first, second = (text.split(f"<answer_{name}>\n")[1].split("\n</answer")[0] for name in "ab")
    return "It says more.\n" + ("A" if len(first) > len(second) else "B" if len(first) < len(second) else "TIE")


def texts(judgement: Judgement) -> list[list[str]]:
    by_name = {answer.id: answer.text for answer in judgement.answers}
    return [[by_name[name] for name in tied] for tied in judgement.ranking]


@given(st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_scores_and_consistent_verdicts_make_the_same_ranking(scores: list[int]) -> None:
    verdicts = {
        (one.id, other.id): Verdict.TIE if here == there else Verdict.FIRST if here > there else Verdict.SECOND
        for place, (one, here) in enumerate(zip(ANSWERS, scores, strict=True))
        for other, there in list(zip(ANSWERS, scores, strict=True))[place + 1 :]
    }
    ranking = ranking_by_scores(ANSWERS, scores)
    assert ranking == ranking_by_pairs(ANSWERS, verdicts)
    assert [{scores["abcd".index(name)] for name in tied} for tied in ranking] == [
        {score} for score in sorted(set(scores), reverse=True)
    ]


def test_a_verdict_that_turns_with_the_order_is_a_tie() -> None:
    a, b, tie = Verdict.FIRST, Verdict.SECOND, Verdict.TIE
    assert [both_ways(a, b), both_ways(b, a), both_ways(tie, tie)] == [a, b, tie]
    assert [both_ways(a, a), both_ways(b, b), both_ways(a, tie), both_ways(tie, b)] == [tie] * 4
    assert [both_ways(None, a), both_ways(b, None)] == [None, None]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [("A", "A"), ("Because.\n\nTIE \n", "TIE"), ("B is better", None), ("A\nor B?", None), ("a", None), ("", None)],
)
def test_only_a_last_line_that_is_a_verdict_counts(reply: str, verdict: str | None) -> None:
    assert read_verdict(reply) == verdict


def test_a_function_judges_with_ties_and_nothing_twice(candidates: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = candidates.with_name("f.py")
    file.write_text("def length(prompts, responses):\n    return [min(len(text), 8) for text in responses]\n")
    found = judge(candidates, "--function", f"{file}:length")
    assert [texts(one) for one in found] == [[["much longer", "middling"], ["short"]]] * 3
    assert {(one.labeller, one.source, one.task) for one in found} == {("length", "function", "rank")}
    before = candidates.with_name("j.jsonl").read_bytes()
    judge(candidates, "--function", f"{file}:length")
    assert candidates.with_name("j.jsonl").read_bytes() == before
    assert "0 judgements of length" in capsys.readouterr().out
    pairs = judge(candidates, "--function", f"{file}:length", "--task", "compare", "--name", "other")[3:]
    assert len(pairs) == 9 and {one.labeller for one in pairs} == {"other"}
    assert all(one.task == "compare" and len(one.answers) == 2 for one in pairs)


def test_a_function_that_fails_is_one_line(candidates: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = candidates.with_name("f.py")
    file.write_text("def broken(prompts, responses):\n    return [1 / 0]\n")
    assert judge(candidates, "--function", f"{file}:broken", expect=1) == []
    assert "judge" in (said := capsys.readouterr().err) and "ZeroDivisionError" in said


def test_a_reward_model_judges_by_its_scores(
    candidates: Path, tiny_model: Path, alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = candidates.with_name("reward")
    write_reward_model(folder, tiny_model)
    for file in tiny_model.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    found = judge(candidates, "--reward-model", str(folder), "--device", "cpu")
    assert "\n\n" not in capsys.readouterr().err, "each batch leaves an empty line where there is no terminal"
    assert {(one.labeller, one.source) for one in found} == {("reward", "model")}
    assert all(len(one.ranking) == 3 for one in found)


def test_an_endpoint_is_asked_in_both_orders_and_sees_the_token(
    candidates: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_TOKEN", "s3cret")
    endpoint.reply = longer
    url = f"{endpoint.url}/chat/completions/?version=1"
    words = ["--endpoint", url, "--model", "gpt", "--token-env", "JUDGE_TOKEN"]
    found = judge(candidates, *words)
    assert [texts(one) for one in found] == [[["much longer"], ["middling"], ["short"]]] * 3
    assert {(one.labeller, one.source) for one in found} == {("gpt", "endpoint")}
    assert len(endpoint.seen) == 3 * 3 * 2 and {token for _, token in endpoint.seen} == {"Bearer s3cret"}
    assert {(body["model"], body["temperature"]) for body, _ in endpoint.seen} == {("gpt", 0)}
    assert "s3cret" not in candidates.with_name("j.jsonl").read_text()


def test_an_endpoint_that_always_prefers_the_first_says_nothing(candidates: Path, endpoint: Endpoint) -> None:
    found = judge(candidates, "--endpoint", endpoint.url, "--model", "gpt")
    assert [len(one.ranking) for one in found] == [1] * 3, "a bias by position is taken for a judgement"


def test_an_answer_that_names_a_field_or_a_verdict_stays_what_it_is(candidates: Path, endpoint: Endpoint) -> None:
    template = candidates.with_name("t.txt")
    template.write_text("{prompt}|{first}|{second}")
    rows = [{"prompt": "{second}", "answers": [{"text": "{first} A"}, {"text": "{prompt}"}]}]
    write_jsonl(candidates, rows)
    judge(candidates, "--endpoint", endpoint.url, "--model", "gpt", "--template", str(template))
    asked = sorted(body["messages"][0]["content"] for body, _ in endpoint.seen)
    assert asked == ["{second}|{first} A|{prompt}", "{second}|{prompt}|{first} A"]


def test_some_rubbish_skips_the_prompt_and_nothing_but_rubbish_ends_it(
    candidates: Path, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.reply = lambda text: "I like both." if "Prompt 1" in text else longer(text)
    found = judge(candidates, "--endpoint", endpoint.url, "--model", "gpt")
    assert [one.skipped for one in found] == ["", "no verdict", ""]
    assert "(1 without a verdict)" in capsys.readouterr().out
    endpoint.reply = lambda text: "As a model, I have no opinion."
    assert len(judge(candidates, "--endpoint", endpoint.url, "--model", "other", expect=1)) == 3
    assert "18 replies and no verdict" in (said := capsys.readouterr().err) and "no opinion." in said


def test_an_overloaded_endpoint_is_asked_again(candidates: Path, endpoint: Endpoint) -> None:
    busy = iter([True, True])
    endpoint.reply = lambda text: web.Response(status=503) if next(busy, False) else longer(text)
    assert len(judge(candidates, "--endpoint", endpoint.url, "--model", "gpt", "--parallel", "1")) == 3
    assert len(endpoint.seen) == 20


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (lambda text: web.Response(status=401), "HTTP 401"),
        (lambda text: web.Response(text="{}"), "not JSON of a chat completion"),
        (lambda text: web.json_response({"choices": [{"message": {"content": None}}]}), "has no text"),
        (lambda text: web.Response(body=b"x" * (2**20 + 1)), "more than 1048576 bytes"),
        (lambda text: time.sleep(0.6) or "A", "after 2 tries: timed out: no whole answer within 0.2 s (--timeout)"),
    ],
    ids=["refuses", "no completion", "no text", "endless", "slow"],
)
def test_an_endpoint_that_fails_is_one_line_and_what_was_judged_is_kept(
    candidates: Path, endpoint: Endpoint, capsys: pytest.CaptureFixture[str], reply: Reply, said: str
) -> None:
    endpoint.reply = longer
    words = ["--endpoint", endpoint.url, "--model", "gpt", "--retries", "1"]
    judge(candidates, *words)
    row = {"prompt": "One more", "answers": [{"text": "a"}, {"text": "b"}]}
    candidates.write_text(candidates.read_text() + json.dumps(row) + "\n")
    endpoint.reply = reply
    assert len(judge(candidates, *words, "--timeout", "0.2", expect=1)) == 3
    shown = capsys.readouterr().err
    assert said in shown and len(shown.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "one of the arguments --function --reward-model --endpoint is required"),
        ("--endpoint ftp://x --model m", "expected an http or https URL"),
        ("--endpoint http://localhost:1/v1", "--endpoint needs --model NAME"),
        ("--endpoint http://localhost:1/v1 --model m --token-env NO_SUCH_VARIABLE", "there is no such environment"),
        ("--endpoint http://localhost:1/v1 --model m --template {c}", "{first}, {second} is not in the template"),
        ("--reward-model {c}", "c.jsonl is a file, expected a model directory"),
        ("--function nowhere.py:f", "there is no file nowhere.py"),
        ("--function f.py:f --timeout 0", "--timeout 0.0: expected 0.001 or more"),
    ],
)
def test_a_mistake_of_judge_is_one_line(
    candidates: Path, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    candidates.write_text(candidates.read_text().replace("Prompt 0", "{prompt}"))
    judge(candidates, *words.replace("{c}", str(candidates)).split(), expect=2)
    shown = capsys.readouterr().err
    assert said in shown and len(shown.splitlines()) == 1
