"""Of two models, how often the answers of one are preferred; also as if answers were equally long."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_dist.labelling.candidates import Candidates
from rlhf_dist.labelling.estimates import NOTHING, Bootstrap, Estimate, Floats
from rlhf_dist.labelling.preferences import Preference

_STEPS = 50
_LARGEST = 30.0  # of the intercept: a model that wins everything has none, and this one's share is 1 to 12 digits
_RIDGE = np.diag([1e-9, 1e-3])  # on intercept and length: where all answers are equally long, length explains nothing


@dataclass(frozen=True)
class WinRate:
    """One model against another.

    Attributes:
        model, other: their names.
        wins, ties, losses: of the first.
        plain: share of prompts that it won; a tie is half of one.
        length_controlled: the same as if the answers were equally long (:func:`length_controlled`).
        length, other_length: mean characters of their answers.
    """

    model: str
    other: str
    wins: int
    ties: int
    losses: int
    plain: Estimate
    length_controlled: Estimate
    length: float
    other_length: float

    def to_json(self) -> dict[str, object]:
        """As it stands in a JSON file."""
        estimates = {"win_rate": self.plain, "length_controlled_win_rate": self.length_controlled}
        return {
            "model": self.model,
            "other": self.other,
            **{name: getattr(self, name) for name in ("wins", "ties", "losses")},
            **{name: estimate.to_json() for name, estimate in estimates.items()},
            "mean_characters": {self.model: self.length, self.other: self.other_length},
        }


def win_rate(
    model: str, other: str, preferences: Iterable[Preference], rows: Sequence[Candidates], bootstrap: Bootstrap
) -> WinRate:
    """How often the answers of ``model`` are preferred to those of ``other``.

    Args:
        model, other: names of models.
        preferences: of a judge.
        rows: what was judged. A prompt to which both models gave the same answer has it once; it is a tie.
        bootstrap: draws the prompts.
    """
    won: dict[str, tuple[float, float]] = {}  # by prompt: the result for the model, and by how much it is longer
    lengths: dict[str, list[int]] = {model: [], other: []}
    for one in preferences:
        named = {one.earlier.model: (one.earlier, one.sign), one.later.model: (one.later, -one.sign)}
        if named.keys() == {model, other}:
            ours, sign = named[model]
            theirs, _ = named[other]
            won[one.prompt] = ((sign + 1) / 2, len(ours.text) - len(theirs.text))
    for row in rows:
        if len(row.answers) == 1:
            won[row.prompt.id] = (0.5, 0.0)
        for name in (model, other):
            same = len(row.answers) == 1
            lengths[name] += [len(answer.text) for answer in row.answers if same or answer.model == name]
    results = [result for result, _ in won.values()]
    means = {name: float(np.mean(each)) if each else 0.0 for name, each in lengths.items()}
    return WinRate(
        model,
        other,
        wins=results.count(1.0),
        ties=results.count(0.5),
        losses=results.count(0.0),
        plain=bootstrap.share({prompt: (result, 1.0) for prompt, (result, _) in won.items()}),
        length_controlled=length_controlled(won, bootstrap),
        length=means[model],
        other_length=means[other],
    )


def length_controlled(won: Mapping[str, tuple[float, float]], bootstrap: Bootstrap) -> Estimate:
    """The win rate that a logistic regression gives for a length difference of zero (arXiv 2404.04475, section 3).

    The probability of a win is ``sigmoid(a + b tanh(d / s))``, with d by how much longer the model's answer is, and s
    the standard deviation of d; the win rate is ``sigmoid(a)``. The paper also has a term for how hard each prompt is,
    which needs many models.

    Args:
        won: by prompt, the result (1, 0.5 or 0) and d.
        bootstrap: draws the prompts.
    """
    if not won:
        return NOTHING
    results, differences = np.array(list(won.values()), dtype=np.float64).T
    spread = float(differences.std())
    lengths = np.tanh(differences / spread) if spread else np.zeros_like(differences)
    inputs = np.stack([np.ones_like(lengths), lengths], 1)

    def rates(weights: Floats) -> Floats:
        return np.array([_at_equal_length(inputs, results, row) for row in weights])

    value = float(rates(np.ones((1, len(results))))[0])
    return bootstrap.statistic(value, len(results), len(results), rates)


def _at_equal_length(inputs: Floats, results: Floats, weights: Floats) -> float:
    """``sigmoid(a)`` of the logistic regression of ``results`` on ``inputs`` ``[N, 2]``, by Newton's method."""
    found = np.zeros(2)
    for _ in range(_STEPS):
        expected = 1 / (1 + np.exp(-inputs @ found))
        slope = inputs.T @ (weights * (results - expected)) - _RIDGE @ found
        curvature = (inputs.T * (weights * expected * (1 - expected))) @ inputs + _RIDGE
        step = np.linalg.solve(curvature, slope)
        found = np.clip(found + np.clip(step, -2.0, 2.0), -_LARGEST, _LARGEST)
        if np.abs(step).max() < 1e-10:
            break
    return float(1 / (1 + np.exp(-found[0])))
