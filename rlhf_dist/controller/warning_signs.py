"""Signs in a run's figures that something goes wrong, each with the figure that shows it and what to do.

docs/reports.md lists the rules; their thresholds stand here alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlhf_dist.controller.loaded_run import Row, Rows

WINDOW = 5  # steps that a figure is averaged over before a rule looks at it
KL_PER_TOKEN = 0.5  # nats
ENTROPY_LEFT = 0.2  # of that of the first steps
FINISHED_SHARE = 0.5
LENGTH_GROWTH = 1.5  # times that of the first steps
DISTINCT_LEFT = 0.6  # of that before the run
SCORE_RISE = 0.5  # standard deviations of the first steps' scores
EXPLAINED_VARIANCE = 0.05
CRITIC_STEPS = 20  # what a critic is given to learn something
LOGPROB_GAP = 0.05  # nats a token: several times what bfloat16 rounds away


@dataclass(frozen=True)
class WarningSign:
    """One thing that a run should be looked at for.

    Attributes:
        title: what happens, in a few words.
        step: where the figure passed its threshold, and from where it stayed beyond it.
        figure: which figure, how large it is, and what it was held against.
        advice: what to do.
    """

    title: str
    step: int
    figure: str
    advice: str


@dataclass(frozen=True)
class _Point:
    """A figure averaged over the ``WINDOW`` steps that end with ``step``."""

    step: int
    value: float


def warning_signs(rows: Rows, summary: Row | None = None) -> list[WarningSign]:
    """The warnings that a run's figures raise: none for a healthy one.

    Args:
        rows: of metrics.jsonl.
        summary: summary.json, for what is measured only before and after; None of a run without.
    """
    rules: Sequence[Callable[[Rows, Row | None], WarningSign | None]] = (
        _kl,
        _entropy,
        _cut_off,
        _length,
        _repetition,
        _critic,
        _gap,
    )
    found = (rule(rows, summary) for rule in rules)
    return [sign for sign in found if sign is not None]


def _kl(rows: Rows, _: Row | None) -> WarningSign | None:
    lengths = {point.step: point.value for point in _averaged(rows, "response/length_mean")}
    points = [
        _Point(point.step, point.value / max(lengths[point.step], 1.0))
        for point in _averaged(rows, "kl/sequence_mean")
        if point.step in lengths
    ]
    beyond = _stays(points, lambda value: value > KL_PER_TOKEN)
    if beyond is None:
        return None
    return WarningSign(
        "The policy leaves the reference",
        beyond.step,
        f"KL is {points[-1].value:.2f} nats a token (kl/sequence_mean over response/length_mean), above {KL_PER_TOKEN}",
        "Raise ppo.kl.coef (or let ppo.kl.controller=adaptive hold ppo.kl.target), or lower actor.optim.lr, and go on "
        "from a checkpoint before this step. Read the samples: at such a KL a reward model judges texts that it was "
        "never trained on.",
    )


def _entropy(rows: Rows, _: Row | None) -> WarningSign | None:
    points = _averaged(rows, "policy/entropy")
    if not points or points[0].value <= 0:
        return None
    limit = ENTROPY_LEFT * points[0].value
    beyond = _stays(points, lambda value: value < limit)
    if beyond is None:
        return None
    return WarningSign(
        "The entropy collapses",
        beyond.step,
        f"policy/entropy is {points[-1].value:.3g} nats a token, below {limit:.3g} ({ENTROPY_LEFT:.0%} of that of the "
        "first steps)",
        "The policy says the same again and again, and has little left to explore. Lower actor.optim.lr or ppo.epochs, "
        "raise ppo.kl.coef, or let rare tokens grow with ppo.clip_high above ppo.clip.",
    )


def _cut_off(rows: Rows, _: Row | None) -> WarningSign | None:
    points = _averaged(rows, "response/finished")
    beyond = _stays(points, lambda value: value < FINISHED_SHARE)
    if beyond is None:
        return None
    return WarningSign(
        "Answers are cut off",
        beyond.step,
        f"response/finished is {points[-1].value:.0%}, below {FINISHED_SHARE:.0%}: the others reach the length limit",
        "Raise rollout.max_response_tokens if the answers need the room; else set ppo.missing_eos_penalty, and check "
        "that the demonstrations of SFT end with the end-of-sequence token. What is cut off is scored as it stands.",
    )


def _length(rows: Rows, _: Row | None) -> WarningSign | None:
    points = _averaged(rows, "response/length_mean")
    if not points or not _score_rises(rows):
        return None
    limit = LENGTH_GROWTH * points[0].value
    beyond = _stays(points, lambda value: value > limit)
    if beyond is None:
        return None
    return WarningSign(
        "The score rises with the length",
        beyond.step,
        f"response/length_mean is {points[-1].value:.0f} tokens, above {limit:.0f} ({LENGTH_GROWTH:g} times that of "
        f"the first steps), while reward/score_mean {_rise(rows)}",
        "The reward may pay for length. Compare answers of the same length in the samples; train the reward model on "
        "pairs where the longer answer is the worse one, or take length off the reward with a function under rewards.",
    )


def _repetition(rows: Rows, summary: Row | None) -> WarningSign | None:
    points = _evaluations(rows, summary, "distinct_2")
    if len(points) < 2 or not (_score_rises(rows) or _rises(_evaluations(rows, summary, "score_mean"))):
        return None
    limit = DISTINCT_LEFT * points[0].value
    beyond = _stays(points, lambda value: value < limit)
    if beyond is None:
        return None
    return WarningSign(
        "The score rises with repetition",
        beyond.step,
        f"eval/distinct_2 is {points[-1].value:.2f}, below {limit:.2f} ({DISTINCT_LEFT:.0%} of that before the run), "
        "while the score rises",
        "The policy has found phrases that the reward likes. Raise ppo.kl.coef or end the run earlier (run.keep_best "
        "keeps the best checkpoint of a held-out figure), and train the reward model on answers of this policy.",
    )


def _critic(rows: Rows, _: Row | None) -> WarningSign | None:
    points = [p for p in _averaged(rows, "value/explained_variance", 2 * WINDOW) if p.step >= CRITIC_STEPS]
    beyond = _stays(points, lambda value: value < EXPLAINED_VARIANCE)
    if beyond is None:
        return None
    return WarningSign(
        "The critic explains nothing",
        beyond.step,
        f"value/explained_variance is {points[-1].value:.2f} after {points[-1].step} steps, below {EXPLAINED_VARIANCE}",
        "Advantages are mere noise around the returns then. Raise critic.optim.lr, give the critic a start with "
        "ppo.critic_warmup_steps, set ppo.normalize_scores=true where scores are large, or use an estimator without "
        "a critic (ppo.advantage=grpo).",
    )


def _gap(rows: Rows, _: Row | None) -> WarningSign | None:
    # Older weights that sampled are another matter: what they leave between the two is no mistake.
    points = _averaged([row for row in rows if not row.get("rollout/staleness_max")], "rollout/logprob_gap")
    beyond = _stays(points, lambda value: value > LOGPROB_GAP)
    if beyond is None:
        return None
    return WarningSign(
        "Engine and trainer are apart",
        beyond.step,
        f"rollout/logprob_gap is {points[-1].value:.3g} nats a token, above {LOGPROB_GAP}",
        "The engines sample from another distribution than the one that is trained. Give rollout.dtype and "
        "actor.model.dtype the same value, check every transfer with weights.verify_every=1, and correct what stays "
        "with ppo.rollout_correction=truncate.",
    )


def _averaged(rows: Rows, key: str, window: int = WINDOW) -> list[_Point]:
    """The means over ``window`` steps each; of fewer than that, none."""
    known = [(row["step"], row[key]) for row in rows if key in row]
    return [
        _Point(known[end - 1][0], sum(value for _, value in known[end - window : end]) / window)
        for end in range(window, len(known) + 1)
    ]


def _stays(points: Sequence[_Point], beyond: Callable[[float], bool]) -> _Point | None:
    """The point from which on all are beyond a threshold; None where the last one is not: what has passed is past."""
    first = None
    for point in reversed(points):
        if not beyond(point.value):
            break
        first = point
    return first


def _evaluations(rows: Rows, summary: Row | None, name: str) -> list[_Point]:
    """What the evaluations before, during and after the run have found for the figure ``name``."""
    before, after = (summary[part].get(name) if summary else None for part in ("before", "after"))
    points = [] if before is None else [_Point(0, before)]
    points += [_Point(row["step"], row[f"eval/{name}"]) for row in rows if f"eval/{name}" in row]
    return points + ([] if after is None or not rows else [_Point(rows[-1]["step"], after)])


def _score_rises(rows: Rows) -> bool:
    """Whether the score has gone up by more than its spread within a step makes likely."""
    spread = _averaged(rows, "reward/score_std")
    points = _averaged(rows, "reward/score_mean")
    return _rises(points, SCORE_RISE * spread[0].value if spread else 0.0)


def _rises(points: Sequence[_Point], least: float = 0.0) -> bool:
    return len(points) > 1 and points[-1].value - points[0].value > least


def _rise(rows: Rows) -> str:
    points = _averaged(rows, "reward/score_mean")
    return f"rose from {points[0].value:.3g} to {points[-1].value:.3g}"
