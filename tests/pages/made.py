"""The pages that commands write, of made-up runs and judgements: as they usually are, and as bad as they can get.

Without a browser, and without torch: each page takes a moment.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

from rlhf_dist.__main__ import main
from rlhf_dist.controller.comparison import write_comparison
from rlhf_dist.controller.report import write_report
from rlhf_dist.controller.rundir import RunDir
from rlhf_dist.durable import write_text_atomic
from rlhf_dist.labelling.estimates import Bootstrap
from rlhf_dist.labelling.judgements import Judgement
from rlhf_dist.labelling.reward_accuracy import ScoredRow, reward_accuracy
from rlhf_dist.labelling.reward_tables import Mistake, bench_table, reward_page, reward_tables
from rlhf_dist.labelling.rewardbench import SECTIONS, BenchRow, bench_scores
from tests.browser import ATTACK, ATTACK_NAME
from tests.controller.curves_of_runs import Figures, sample, write_run
from tests.labelling.made import simulated, write

LONG_WORD = "Donaudampfschifffahrtsgesellschaftskapitänsmütze" * 6
RIGHT_TO_LEFT = "مرحبا بالعالم، هذا نص طويل بعض الشيء. שלום עולם."
LONG_NAME = "ppo-llama-3.1-8b-instruct-lr1e-6-kl0.05-clip0.2-batch512-with-a-name-that-does-not-end-" * 2
_TEXTS = (
    "The film was a warm, funny surprise, and the cast seemed to enjoy every minute of it.",
    "I left after twenty minutes. It is dull, long and badly lit.",
    "A quiet story about two brothers, told with great care.",
)


def make_pages(folder: Path) -> dict[str, Path]:
    """Writes every page once or more. Returns where they are, by what is on them."""
    runs, out = folder / "runs", folder / "pages"
    out.mkdir(parents=True, exist_ok=True)
    pages: dict[str, Path] = {}

    def put(name: str, make: Callable[[Path], object]) -> None:
        pages[name] = out / f"{name}.html"
        make(pages[name])

    put("run", lambda path: write_report(_usual_run(runs, "demo-ppo").root, path))
    put("run-just-begun", lambda path: write_report(_begun(runs).root, path))
    put("run-extreme", lambda path: write_report(_extreme_run(runs / "a", ATTACK_NAME).root, path))
    seeds = [_usual_run(runs, f"grpo-s{seed}", seed) for seed in (1, 2, 3)]
    put("runs", lambda path: _compared([*seeds, _usual_run(runs, "ppo", 4, {"kl": {"coef": 0.02}})], path))
    put("runs-extreme", lambda path: _compared(_many_runs(runs / "b"), path))
    put("judgements", lambda path: _judgements(folder / "said.jsonl", simulated({"sft": 0, "ppo": 1.0}, 30), path))
    put("judgements-extreme", lambda path: _judgements(folder / "odd.jsonl", _odd_judgements(), path))
    put("reward", lambda path: _reward(path, ["Chat", "Code", "Safety"], list(_TEXTS)))
    odd = [ATTACK, RIGHT_TO_LEFT, LONG_WORD, ""]
    put("reward-extreme", lambda path: _reward(path, [*odd[:3], *(f"category {n}" for n in range(6))], odd))
    return pages


def _usual_run(folder: Path, name: str, seed: int = 1, ppo: dict[str, object] | None = None) -> RunDir:
    run = write_run(folder, name, {"ppo": ppo or {"kl": {"coef": 0.05}}}, seed=seed, steps=60)
    prompts = ("This movie", "The acting is", "I went to see it because")
    for step in (0, 20, 40, 60):
        rows = [sample(step, prompt, _TEXTS[(step // 20 + n) % 3], step / 60) for n, prompt in enumerate(prompts)]
        run.append_samples(rows)
    return run


def _begun(folder: Path) -> RunDir:
    run = RunDir(folder / "just-begun")
    write_text_atomic(run.config, "run:\n  name: just-begun\n")
    return run


def _extreme_run(folder: Path, name: str, seed: int = 1, steps: int = 26) -> RunDir:
    """A run that goes wrong in every way that has a warning, with texts that no page should have to show."""

    def change(step: int, figures: Figures) -> Figures:
        worse = {
            "kl/sequence_mean": 3.0 * step,
            "policy/entropy": 3.0 * math.exp(-step / 4),
            "rollout/logprob_gap": 0.4,
        }
        cut = {
            "response/finished": 0.1,
            ATTACK_NAME: 1.0,
            "a/metric/" + "of_a_very_long_name_" * 4: 1e-9 * step,
            "one/point": 0.0,
        }
        return figures | worse | cut | {"value/explained_variance": -3.0}

    settings = {"actor": {"model": {"path": f"/models/{ATTACK}"}, "note": LONG_WORD}, "data": {"path": RIGHT_TO_LEFT}}
    run = write_run(folder, name, settings, seed=seed, steps=steps, change=change)
    texts = (ATTACK, LONG_WORD, RIGHT_TO_LEFT, "", "\n\n\n  code {\n\treturn 1\n  }\n", "word " * 60)
    for step in (1, 9, steps):
        run.append_samples([sample(step, text, texts[(n + step) % 6], -1e6) for n, text in enumerate(texts)])
    return run


def _many_runs(folder: Path) -> list[RunDir]:
    """More runs than there are colours: one of a single step, one without samples, one that has just begun."""
    odd = [_extreme_run(folder, name, seed) for seed, name in enumerate((ATTACK_NAME, RIGHT_TO_LEFT, LONG_NAME))]
    usual = [
        write_run(folder, f"{LONG_NAME[:80]}{n}", {"actor": {"lr": n, "note": ATTACK}}, seed=n, steps=n or 1)
        for n in (0, 5, 9, 14, 26, 31)
    ]
    return [*odd, *usual, _begun(folder)]


def _compared(runs: Sequence[RunDir], path: Path) -> None:
    write_comparison([run.root for run in runs], path)


def _judgements(file: Path, judgements: Sequence[Judgement], path: Path) -> None:
    with redirect_stdout(io.StringIO()):
        words = ["judgements", str(write(file, judgements)), "--html", str(path), "--resamples", "50"]
        rankings = ["--rankings", str(file.with_suffix(".rankings.jsonl")), "--keep-flagged"]
        assert main([*words, *rankings]) == 0


def _odd_judgements() -> list[Judgement]:
    models = {ATTACK: 0.0, LONG_WORD: 0.3, RIGHT_TO_LEFT: 0.6, "a model": 1.0}
    labellers = (ATTACK_NAME, RIGHT_TO_LEFT, LONG_WORD, *(f"labeller {n}" for n in range(2)))
    said = simulated(models, 5, labellers)
    rated = [
        replace(
            one,
            flag=ATTACK,
            note=ATTACK,
            ratings={answer.id: {ATTACK: place, LONG_WORD: True} for place, answer in enumerate(one.answers, 1)},
        )
        for one in said
    ]
    judge = [replace(one, labeller=ATTACK, source="model", id=f"{one.id}-judge") for one in said[::7]]
    return rated + judge


def _reward(path: Path, categories: Sequence[str], texts: Sequence[str]) -> None:
    draw = random.Random(0)
    rows = [
        ScoredRow("data.jsonl", category, (1, 2), (draw.gauss(0.7, 1), draw.gauss(0, 1)), (40, 30), (texts[0], "b"))
        for category in categories
        for _ in range(12)
    ]
    benches = bench_scores(
        [BenchRow(name, "", [draw.gauss(1, 1)], [0.0]) for section in SECTIONS.values() for name in section]
    )
    found = reward_accuracy(rows, Bootstrap(50))
    mistakes = [Mistake(f"data.jsonl:{n}", text, text * 2, texts[n - 1], -1.25, 3.5) for n, text in enumerate(texts, 1)]
    tables = [*map(bench_table, benches), *reward_tables(found)]
    text = reward_page(f"Reward model {texts[0]}", f"runs/{texts[0]}/model on data.jsonl", tables, found, mistakes)
    write_text_atomic(path, text)
