"""`rlhf-dist eval-reward`: a reward model against preferences that it has not seen.

It runs in this process, on one device: the model is scored by the code that scores in PPO and in the training of reward
models (:class:`~rlhf_dist.engine.scalar.RewardEngine`), but without a cluster, which would take longer to start than
most evaluations last. Memory holds the model, the data's text, and the tokens of as many rows as `reward_scores` takes
at a time.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.text import Text
from transformers.utils import logging

from rlhf_dist.config.paths import check_model_path
from rlhf_dist.config.schema import FrozenRoleConfig, ModelConfig
from rlhf_dist.data.preferences import RankedAnswers, load_preferences
from rlhf_dist.data.tokenizer import load_tokenizer
from rlhf_dist.device import resolve
from rlhf_dist.durable import write_json_atomic, write_text_atomic
from rlhf_dist.errors import UserError, one_line
from rlhf_dist.jobs.outputs import check_outputs, console_for, written
from rlhf_dist.jobs.reward_scores import checked_model, reward_engine, reward_scores
from rlhf_dist.labelling.estimates import Bootstrap
from rlhf_dist.labelling.reward_accuracy import RewardAccuracy, ScoredRow, pairs_of, reward_accuracy
from rlhf_dist.labelling.reward_tables import Mistake, bench_table, reward_page, reward_tables
from rlhf_dist.labelling.rewardbench import BenchRow, BenchScores, bench_scores
from rlhf_dist.labelling.tables import print_tables

MISTAKES = 10


def run(options: argparse.Namespace) -> None:
    """The command `eval-reward`, with the options of its command line.

    Raises:
        UserError: the model is no reward model, the data is malformed, or an output cannot be written.
    """
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    check_outputs([path for path in (options.html, options.json) if path], options.data)
    for name in ("resamples", "micro_batch_tokens", "max_tokens"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"eval-reward: --{name.replace('_', '-')} must be above 0")
    check_model_path(options.model, "eval-reward")
    rows = _load(options.data, options.split, options.category)
    tokenizer = load_tokenizer(options.model, options.trust_remote_code)
    most = checked_model(options.model, options.trust_remote_code, options.max_tokens)
    model = ModelConfig(path=options.model, dtype=options.dtype, trust_remote_code=options.trust_remote_code)
    role = FrozenRoleConfig(model=model, micro_batch_tokens=options.micro_batch_tokens)
    with reward_engine(role, resolve(options.device)) as engine:
        scores = reward_scores(engine, [row for _, row in rows], tokenizer, most, options.truncate)
    scored = [
        ScoredRow(source, row.category, row.ranks, given, [len(text) for text in row.responses], row.models)
        for (source, row), given in zip(rows, scores, strict=True)
    ]
    found = reward_accuracy(scored, Bootstrap(options.resamples, options.seed))
    benches = bench_scores([_bench_row(row, given) for (_, row), given in zip(rows, scores, strict=True)])
    _show(options, found, benches, len(rows), _mistakes([row for _, row in rows], scored))


def _load(paths: Sequence[str], split: str, category: str | None) -> list[tuple[str, RankedAnswers]]:
    """The rows of all data sets that have a pair, each with its data set's name."""
    rows = [(Path(path).name, row) for path in paths for row in load_preferences(path, split, category)]
    paired = [(source, row) for source, row in rows if len(set(row.ranks)) > 1]
    if not paired:
        raise UserError(f"{', '.join(paths)}: all answers tie in every row, so there is no pair to evaluate on")
    return paired


def _bench_row(row: RankedAnswers, scores: Sequence[float]) -> BenchRow:
    """The row as the benchmarks see it: what is not ranked first is wrong."""
    ranked = list(zip(row.ranks, scores, strict=True))
    correct, wrong = [score for rank, score in ranked if rank == 1], [score for rank, score in ranked if rank != 1]
    return BenchRow(row.category or "", str(row.prompt.record.fields.get("id", "")), correct, wrong)


def _mistakes(rows: Sequence[RankedAnswers], scored: Sequence[ScoredRow]) -> list[Mistake]:
    """The pairs that are scored wrong by the most, the worst of each row, the most confident first."""
    pairs = pairs_of(scored)
    worst: dict[int, Mistake] = {}
    for place in pairs.margin.argsort(kind="stable"):
        number, better, worse = int(pairs.row[place]), int(pairs.better[place]), int(pairs.worse[place])
        if pairs.margin[place] >= 0 or len(worst) == MISTAKES:
            break
        row, scores = rows[number], scored[number].scores
        mistake = Mistake(
            row.prompt.record.where,
            row.prompt.text,
            row.responses[better],
            row.responses[worse],
            scores[better],
            scores[worse],
        )
        worst.setdefault(number, mistake)
    return list(worst.values())


def _show(
    options: argparse.Namespace,
    found: RewardAccuracy,
    benches: Sequence[BenchScores],
    rows: int,
    mistakes: Sequence[Mistake],
) -> None:
    tables, console = [*map(bench_table, benches), *reward_tables(found)], console_for()
    count = found.accuracies[0].pairs
    names = ", ".join(Path(path).name for path in options.data)
    head = (
        f"{options.model} on {names}: {rows:,} row{'' if rows == 1 else 's'}, {count:,} pair{'' if count == 1 else 's'}"
    )
    console.print(Text(one_line(head)))
    console.print()
    print_tables(tables, console)
    if options.json:
        figures: dict[str, object] = {"model": options.model, "data": options.data, "rows": rows, **found.to_json()}
        figures["benchmarks"] = [asdict(bench) for bench in benches]
        written(options.json, lambda path: write_json_atomic(path, figures), console)
    if options.html:
        title = f"Reward model {Path(options.model).name}"
        text = reward_page(title, head, tables, found, mistakes)
        written(options.html, lambda path: write_text_atomic(path, text), console)
