"""The whole circle on a tiny model: samples, people's rankings of them, a reward model, PPO, and who is better now."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from rlhf_dist.data.comparisons import is_ranking
from rlhf_dist.labelling.candidates import load_candidates
from rlhf_dist.labelling.judgements import Judgement, load_judgements
from rlhf_dist.labelling.preferences import places
from tests.browser import needs_chromium
from tests.labelling.serving import Server
from tests.pipeline.conftest import Workspace
from tests.tiny import write_data, write_model

vader = pytest.importorskip("vaderSentiment.vaderSentiment", reason="the extra `demo` is not installed")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    needs_chromium,
]
NOISE = 0.05  # of a labeller's opinion, standard deviation


def command(place: Workspace, *words: str) -> str:
    """Runs a command of `rlhf-dist` as a user does. Gives what it printed."""
    return place.finish(place.launch([sys.executable, "-m", "rlhf_dist", *words]), "", 0).output


def sample(place: Workspace, out: str, *words: str) -> None:
    tiny = ["--max-tokens", "10", "--backend", "hf", "--device", "cpu"]
    command(place, "sample", "--prompts", "data/prompts.jsonl", "--out", out, *tiny, *words)


def label(chromium: Any, candidates: Path, out: Path) -> None:
    """Two labellers, each in a browser, rank all that they are shown: VADER's opinion, and a bit of noise."""
    server = Server(str(candidates), "--out", str(out), "--labellers", "ann,bob", "--shared", "0.5")
    try:
        for name in ("ann", "bob"):
            context = chromium.new_context()
            context.set_default_timeout(15_000)
            page = context.new_page()
            page.goto(server.link(name))
            rank_all(page, opinion(name))
            context.close()
        assert server.stop()[0] == 0
    finally:
        if server.process.poll() is None:
            server.kill()


def opinion(name: str) -> Callable[[str], float]:
    analyzer, rng = vader.SentimentIntensityAnalyzer(), random.Random(name)
    return lambda text: analyzer.polarity_scores(text)["compound"] + rng.gauss(0, NOISE)


def rank_all(page: Any, opinion: Callable[[str], float]) -> None:
    done = 0
    while True:
        page.wait_for_selector("#prompt-title, .message-page")
        if page.locator(".message-page").count():
            assert done, "there was nothing to rank"
            return
        plain = "where => document.querySelector(`${where} .plain`)?.textContent ?? ''"
        prompt = page.evaluate(plain, ".prompt")
        letters = page.locator(".board [data-letter]").evaluate_all("chips => chips.map((one) => one.dataset.letter)")
        texts = {letter: page.evaluate(plain, f"#answer-{letter}") for letter in letters}
        scores = {letter: round(opinion(f"{prompt} {text}"), 1) for letter, text in texts.items()}
        order = sorted(set(scores.values()), reverse=True)
        for letter in sorted(letters, key=lambda letter: -scores[letter]):
            page.locator(f'.board [data-letter="{letter}"]').focus()
            page.keyboard.press(str(order.index(scores[letter]) + 1))
        page.keyboard.press("Control+Enter")
        done += 1
        page.wait_for_function(
            "done => document.querySelector('.message-page') || "
            "document.querySelector('#progress-text').textContent.startsWith(String(done))",
            arg=done,
        )


def check_opinions(judgements: list[Judgement]) -> None:
    """What labellers clearly prefer, their rankings put first."""
    score = vader.SentimentIntensityAnalyzer().polarity_scores
    clear = 0
    for one in judgements:
        place = places(one.ranking)
        scores = {answer.id: score(f"{one.prompt.plain} {answer.text}")["compound"] for answer in one.answers}
        for better, worse in permutations(scores, 2):
            if scores[better] - scores[worse] > 10 * NOISE:
                assert place[better] < place[worse], (one.prompt.plain, one.ranking, scores)
                clear += 1
    assert clear, "no two answers differ clearly"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workspace]:
    """A workspace with a model that has learned to write the words of its data, which people can have opinions of."""
    place = Workspace(tmp_path)
    write_model(tmp_path / "model")
    write_data(tmp_path / "data", 120)
    place.run("sft", "sft", "actor.optim.lr=1e-2", "sft.max_steps=60")
    yield place
    for process in place.started:
        process.kill()


def test_from_a_models_samples_through_peoples_rankings_to_a_model_that_is_compared_with_it(
    place: Workspace, chromium: Any
) -> None:
    root = place.root
    sample(place, "circle.jsonl", "--model", "sft=runs/sft/model", "--k", "4", "--limit", "12")
    assert all(len(row.answers) >= 2 for row in load_candidates(str(root / "circle.jsonl")))

    label(chromium, root / "circle.jsonl", root / "people.jsonl")
    said = load_judgements(str(root / "people.jsonl"))
    assert {one.labeller for one in said} == {"ann", "bob"} and len({one.prompt.id for one in said}) == 12
    check_opinions(said)
    shown = command(place, "judgements", "people.jsonl", "--rankings", "rankings.jsonl", "--json", "people.json")
    assert "ann" in shown and "bob" in shown
    rows = [json.loads(line) for line in (root / "rankings.jsonl").read_text().splitlines()]
    assert rows and all(is_ranking(row["ranking"]) and len(row["responses"]) >= 2 for row in rows)

    reward = place.run("reward", "people", "data.path=rankings.jsonl", "data.eval_count=2", "reward.optim.lr=1e-3")
    assert 0 <= reward.summary["after"]["accuracy"] <= 1
    ppo = place.run("ppo", "circle", "actor.model.path=runs/sft/model", "reward.model.path=runs/people/model",
                    "rollout.backend=hf")  # fmt: skip
    assert [line["step"] for line in ppo.metrics] == [1, 2]

    both = ["--model", "sft=runs/sft/model", "--model", "ppo=runs/circle/model"]
    sample(place, "both.jsonl", *both, "--k", "2", "--limit", "8", "--seed", "7")
    label(chromium, root / "both.jsonl", root / "blind.jsonl")
    shown = command(place, "judgements", "blind.jsonl", "--json", "blind.json")
    assert re.search(r"\bsft\b", shown) and re.search(r"\bppo\b", shown) and "Elo" in shown
    (pair,) = json.loads((root / "blind.json").read_text())["ratings"]["pairs"]
    assert {pair["model"], pair["other"]} == {"sft", "ppo"}
    assert pair["wins"] + pair["ties"] + pair["losses"] == len(
        {(one.prompt.id, one.labeller) for one in load_judgements(str(root / "blind.jsonl")) if len(one.answers) == 2}
    )
