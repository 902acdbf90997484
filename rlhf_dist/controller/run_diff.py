"""Where two runs part: the first step, phase and figure beyond the noise of equal runs, and what differed before it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rlhf_dist.config.diff import comparable, is_by_content
from rlhf_dist.controller.checkpoints import MANIFEST
from rlhf_dist.controller.identity import IDENTITY_FILE
from rlhf_dist.controller.loaded_run import OF_ONE_PLACE, LoadedRun, Row, Rows, load_runs
from rlhf_dist.errors import UserError, one_line

#: The phases of a step, in their order, with the figures that each is the first to show; "*" are all others.
PHASES = {
    "rollout": ("response/*",),
    "score": ("reward/score_*", "reward/*_mean", "kl/sequence_mean", "rollout/*"),
    "advantage": ("reward/total_mean", "kl/coef", "value/explained_variance"),
    "train": ("*",),
    "sync": ("weights/*",),
    "evaluate": ("eval/*",),
}
_ORDER = tuple(PHASES)
_UNCOMPARED = ("step", "time/*", "throughput/*")  # how fast a run was

FLOAT32_TOLERANCE = (
    1e-4  # relative: sums in another order differ by 1e-5 (docs/correctness.md), a few steps of them by more
)
BFLOAT16_TOLERANCE = 2e-2
#: Figures near 0 that large terms cancel to, and shares that one rounded token moves: so large a difference is noise.
_FLOORS = {
    "rollout/*": 1e-5,
    "loss/policy": 1e-5,
    "policy/approx_kl": 1e-5,
    "kl/sequence_mean": 1e-5,
    "*/clip_fraction": 1e-2,
}
_LINES = 12  # of one list; what is beyond is counted
_SHOWN, _WORDS_BEFORE = 60, 25  # characters of a text
_ABSENT = "(not there)"


@dataclass(frozen=True)
class Parting:
    """A figure that differs.

    Attributes:
        step: 0 of what was sampled before the first step.
        phase: of :data:`PHASES`.
        figure: its name in metrics.jsonl, or what of samples.jsonl it is.
        a, b: what each run has.
        apart: their relative difference; None of texts.
    """

    step: int
    phase: str
    figure: str
    a: object
    b: object
    apart: float | None

    def __str__(self) -> str:
        how = "" if self.apart is None else f" (relative difference {self.apart:.2g})"
        return f"{self.figure}: {_shown(self.a)} | {_shown(self.b)}{how}"


@dataclass(frozen=True)
class RunDiff:
    """How two runs compare.

    Attributes:
        a, b: the runs.
        before: what differed before the first step, one line each: versions, data, configuration.
        unknown: the runs that have no checkpoint, which would tell versions and data; empty where both have one.
        steps: how many steps both have.
        equal_to: the last step up to which all is equal to the bit.
        tolerance: the relative difference that counts as noise.
        parted: all that differs beyond noise in the first step where anything does, by phase; empty of equal runs.
        lone: figures that only one of the runs has, in words.
    """

    a: LoadedRun
    b: LoadedRun
    before: list[str]
    unknown: str
    steps: int
    equal_to: int
    tolerance: float
    parted: list[Parting]
    lone: list[str]


def diff_runs(first: Path, second: Path, tolerance: float | None = None) -> RunDiff:
    """Compares two runs step by step, as far as both go. Timings are not compared.

    Args:
        first, second: the runs' directories.
        tolerance: the relative difference that counts as noise; None: that of the data type the runs computed in.

    Raises:
        UserError: one of them is no run, or they have no step in common.
    """
    a, b = load_runs([first, second])
    by_step = [{row["step"]: row for row in run.rows} for run in (a, b)]
    shared = sorted(by_step[0].keys() & by_step[1].keys())
    if not shared:
        raise UserError(f"{a.directory.root} and {b.directory.root} have no step in common: nothing can be compared")
    if tolerance is not None and not tolerance >= 0:
        raise UserError(f"--tolerance {tolerance:g}: expected 0 or more")
    identities = [_identity(run) for run in (a, b)]
    noise = _tolerance(a, b, identities) if tolerance is None else tolerance
    scales = _scales(a.rows, b.rows)
    equal_to: int | None = None
    parted: list[Parting] = []
    last_equal = 0
    for step in [0, *shared]:
        apart = list(_step_differences(step, (a, b), by_step, scales))
        if apart and equal_to is None:
            equal_to = last_equal
        parted = sorted((one for one in apart if _beyond(one, noise, scales)), key=lambda one: _ORDER.index(one.phase))
        if parted:
            break
        last_equal = step
    last = shared[-1] if equal_to is None else equal_to
    unknown = " and ".join(run.label for run, identity in zip((a, b), identities, strict=True) if not identity)
    return RunDiff(a, b, _before(a, b, identities), unknown, len(shared), last, noise, parted, _lone(by_step, shared))


def report_lines(diff: RunDiff) -> list[str]:
    """The comparison as plain text."""
    a, b = diff.a, diff.b
    lines = [f"a: {a.directory.root} ({_length(a)})", f"b: {b.directory.root} ({_length(b)})", ""]
    lines += ["Different before the first step (a | b):" if diff.before else "Before the first step nothing differs."]
    lines += _some(diff.before)
    lines += [f"(Versions and the content of data are not compared: no checkpoint of {diff.unknown}.)"] * bool(
        diff.unknown
    )
    if diff.lone:
        lines += ["Figures that only one of them has (not compared):", *_some(diff.lone)]
    lines += ["", _equal_words(diff)]
    if diff.parted:
        first = diff.parted[0]
        lines += [f"They part at step {first.step}, phase {first.phase} (a | b):"]
        lines += _some(str(one) for one in diff.parted if one.phase == first.phase)
        later = list(dict.fromkeys(one.phase for one in diff.parted if one.phase != first.phase))
        for phase in later:
            lines += [f"and then, in its phase {phase}:"]
            lines += _some(str(one) for one in diff.parted if one.phase == phase)
    return lines


def run(options: Any) -> int:
    """The command `rlhf-dist diff RUN_A RUN_B`: prints where they part. Returns 0 of equal runs, 1 of others."""
    diff = diff_runs(options.first, options.second, options.tolerance)
    print("\n".join(report_lines(diff)))
    return 1 if diff.parted else 0


def phase_of(figure: str) -> str:
    """The phase that is the first to show a figure of metrics.jsonl; "train" where none claims it."""
    claims = (
        (phase, len(pattern))
        for phase, patterns in PHASES.items()
        for pattern in patterns
        if fnmatchcase(figure, pattern)
    )
    return max(claims, key=lambda claim: claim[1])[0]


def _equal_words(diff: RunDiff) -> str:
    end = diff.parted[0].step if diff.parted else None
    bits = f"Equal to the bit up to step {diff.equal_to}" if diff.equal_to else "Not equal to the bit from the start"
    if end is None and diff.equal_to and diff.steps and diff.equal_to == _last_shared(diff):
        return f"Equal to the bit in all {diff.steps} steps that both have."
    if end is None:
        return f"{bits}; equal within noise (relative {diff.tolerance:g}) in all {diff.steps} steps that both have."
    if end - 1 > diff.equal_to:
        return f"{bits}; equal within noise (relative {diff.tolerance:g}) up to step {end - 1}."
    return f"{bits}."


def _last_shared(diff: RunDiff) -> int:
    return max({row["step"] for row in diff.a.rows} & {row["step"] for row in diff.b.rows})


def _step_differences(
    step: int, runs: tuple[LoadedRun, LoadedRun], rows: list[dict[int, Row]], scales: Mapping[str, float]
) -> Iterator[Parting]:
    """All that is not equal to the bit in a step: figures that both have, and samples."""
    yield from _sample_differences(step, *runs)
    a, b = (by_step.get(step, {}) for by_step in rows)
    for name in sorted(a.keys() & b.keys()):
        if a[name] != b[name] and not any(fnmatchcase(name, pattern) for pattern in _UNCOMPARED):
            apart = abs(a[name] - b[name]) / max(abs(a[name]), abs(b[name]), scales[name])
            yield Parting(step, phase_of(name), name, a[name], b[name], apart)


def _sample_differences(step: int, a: LoadedRun, b: LoadedRun) -> Iterator[Parting]:
    """The first sample of a step with another prompt or response."""
    pairs = zip(*([row for row in run.samples if row["step"] == step] for run in (a, b)), strict=False)
    trained = min(_trained_samples(a, step), _trained_samples(b, step))
    for number, (one, other) in enumerate(pairs):
        for name in ("prompt", "response"):
            if one[name] != other[name]:
                phase = "rollout" if number < trained else "evaluate"
                texts = _around_difference(one[name], other[name])
                yield Parting(step, phase, f"{name} {number + 1} of samples.jsonl", *texts, None)
                return


def _around_difference(a: str, b: str) -> tuple[str, str]:
    """Of two texts, what stands where they begin to differ, with a few words before it."""
    same = next((i for i, pair in enumerate(zip(a, b, strict=False)) if len(set(pair)) > 1), min(len(a), len(b)))
    start = max(same - _WORDS_BEFORE, 0)
    return _piece(a, start), _piece(b, start)


def _piece(text: str, start: int) -> str:
    end = start + _SHOWN
    return json.dumps("..." * (start > 0) + text[start:end] + "..." * (len(text) > end), ensure_ascii=False)


def _trained_samples(run: LoadedRun, step: int) -> int:
    """How many of a step's lines in samples.jsonl are of its rollout; those after them are of an evaluation."""
    every, count = (run.config.get(f"run.samples_{name}") for name in ("every", "count"))
    if step == 0 or not isinstance(every, int) or not isinstance(count, int) or not every:
        return 0
    return count if step == 1 or step % every == 0 else 0


def _beyond(one: Parting, tolerance: float, scales: Mapping[str, float]) -> bool:
    if one.apart is None:
        return True
    floor = next((least for pattern, least in _FLOORS.items() if fnmatchcase(one.figure, pattern)), 0.0)
    assert isinstance(one.a, int | float) and isinstance(one.b, int | float)
    return one.apart > tolerance and (tolerance == 0 or abs(one.a - one.b) > floor)


def _scales(a: Rows, b: Rows) -> dict[str, float]:
    """How large each figure usually is: a difference near a zero crossing is held against that."""
    values: dict[str, list[float]] = {}
    for row in (*a, *b):
        for name, value in row.items():
            values.setdefault(name, []).append(abs(value))
    return {name: statistics.median(found) or 1e-30 for name, found in values.items()}


def _tolerance(a: LoadedRun, b: LoadedRun, identities: list[Row]) -> float:
    """That of bfloat16 where either run computed in it: said so, or on an accelerator by default."""
    for run_, identity in zip((a, b), identities, strict=True):
        kinds = {str(value) for name, value in run_.config.items() if name.endswith(".dtype")}
        device = identity.get("values", {}).get("run.device", run_.config.get("run.device", "cpu"))
        if "bfloat16" in kinds or ("auto" in kinds and device not in ("cpu", "auto")):
            return BFLOAT16_TOLERANCE
    return FLOAT32_TOLERANCE


def _identity(run: LoadedRun) -> Row:
    """identity.json of the newest checkpoint that has one, with `made_by` of its manifest; empty without."""
    for folder in run.directory.checkpoints.folders():
        try:
            identity = json.loads((folder / IDENTITY_FILE).read_text(encoding="utf-8"))
            made_by = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["made_by"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return {**identity, "made_by": made_by}
    return {}


def _before(a: LoadedRun, b: LoadedRun, identities: list[Row]) -> list[str]:
    """What differed before the first step, what shapes a result first."""
    lines = []
    versions = [_versions(identity) for identity in identities]
    contents = [dict(identity.get("content", {})) for identity in identities]
    for kind, (one, other) in (("version of ", versions), ("content of ", contents)):
        lines += [f"{kind}{name}: {what}" for name, what in _unequal(one, other).items()] if one and other else []
    configs = [{key: value for key, value in run_.config.items() if key not in OF_ONE_PLACE} for run_ in (a, b)]
    if all(configs):
        keys = _unequal(*configs)
        free = {name for name in keys if name not in comparable(dict.fromkeys(keys)) and not is_by_content(name)}
        lines += [f"{name}: {what}" for name, what in keys.items() if name not in free]
        lines += [f"{name}: {what} [no result depends on it]" for name, what in keys.items() if name in free]
    return lines


def _versions(identity: Row) -> dict[str, object]:
    made_by = identity.get("made_by", {})
    return {"rlhf_dist": made_by.get("rlhf_dist"), **made_by.get("versions", {})} if made_by else {}


def _unequal(a: Mapping[str, object], b: Mapping[str, object]) -> dict[str, str]:
    """What two mappings do not agree in, by name: "value | value"."""
    pairs = {name: (a.get(name, _ABSENT), b.get(name, _ABSENT)) for name in dict.fromkeys([*a, *b])}
    return {name: f"{_shown(one)} | {_shown(other)}" for name, (one, other) in pairs.items() if one != other}


def _lone(rows: list[dict[int, Row]], shared: list[int]) -> list[str]:
    """Figures that only one run has in steps that both have."""
    found: dict[tuple[str, str], list[int]] = {}
    for step in shared:
        a, b = (by_step[step] for by_step in rows)
        for name in sorted(a.keys() ^ b.keys()):
            if not any(fnmatchcase(name, pattern) for pattern in _UNCOMPARED):
                found.setdefault((name, "a" if name in a else "b"), []).append(step)
    return [f"{name}: only in {which}, from step {steps[0]}" for (name, which), steps in found.items()]


def _length(run_: LoadedRun) -> str:
    last = run_.rows[-1]["step"] if run_.rows else 0
    return f"{last} step{'' if last == 1 else 's'}{', finished' if run_.summary else ''}"


def _some(lines: Iterable[str]) -> list[str]:
    every = [f"  {one_line(line)}" for line in lines]
    left = len(every) - _LINES
    return every if left <= 0 else [*every[:_LINES], f"  and {left} more"]


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return f"{value:.9g}" if isinstance(value, float) else str(value)
