"""`rlhf-dist eval`: two models answer the same prompts, and a judge says whose answers are better."""

from __future__ import annotations

import argparse

from rlhf_dist.cluster.fork_server import ForkServer
from rlhf_dist.controller.trainer import writing
from rlhf_dist.durable import write_json_atomic
from rlhf_dist.jobs import judge, sample
from rlhf_dist.labelling.candidates import load_candidates
from rlhf_dist.labelling.estimates import Bootstrap, Estimate
from rlhf_dist.labelling.judgements import load_judgements
from rlhf_dist.labelling.preferences import preferences_of
from rlhf_dist.labelling.sample_request import SampleRequest
from rlhf_dist.labelling.win_rate import WinRate, win_rate


def run(options: argparse.Namespace, request: SampleRequest, forks: ForkServer | None) -> None:
    """The command `eval`: samples, judges what was not judged before, and says who won.

    Args:
        options: of the command line.
        request: what they ask to sample: one answer of each of two models to each prompt.
        forks: of the workers, where there is one.

    Raises:
        UserError: a mistake in the options, the prompts or the judge.
        RunError: an engine, a function or an endpoint failed; what is done is kept.
    """
    sample.run(request, forks)
    judgements = options.out / "judgements.jsonl"
    rows = load_candidates(str(request.out))
    own = {"candidates": str(request.out), "split": "train", "out": judgements, "task": "compare", "name": None}
    own |= {"model": options.judge_model, "max_tokens": options.judge_max_tokens}
    asked = argparse.Namespace(**{**vars(options), **own})
    if any(len(row.answers) > 1 for row in rows):
        judge.run(asked)
    said = load_judgements(str(judgements)) if judgements.is_file() else []
    mine = [one for one in said if one.labeller == judge.judge_name(asked)]  # not an earlier call's with another judge
    (first, _), (second, _) = request.models
    found = win_rate(first, second, preferences_of(mine), rows, Bootstrap())
    path = options.out / "eval.json"
    with writing(path):
        write_json_atomic(path, found.to_json())
    print(describe(found))
    print(f"written: {path}")


def describe(found: WinRate) -> str:
    """The result in three lines."""
    return (
        f"{found.model} against {found.other}: {found.wins} won, {found.ties} tied, {found.losses} lost\n"
        f"win rate {_percent(found.plain)}; at equal length {_percent(found.length_controlled)}\n"
        f"mean length {found.length:.0f} against {found.other_length:.0f} characters"
    )


def _percent(estimate: Estimate) -> str:
    if estimate.value is None:
        return "unknown: nothing was compared"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.1%} (too few prompts for an interval)"
    return f"{estimate.value:.1%} (95% interval {estimate.low:.1%} to {estimate.high:.1%})"
