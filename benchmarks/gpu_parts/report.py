"""What the parts found, as a table for the terminal and as a page of Markdown."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Result:
    """How a part ended.

    Attributes:
        part: its name.
        outcome: "passed", "failed" or "skipped".
        reason: why it failed or was skipped, one line.
        seconds: that it took.
        log: file with all it printed; None where it was not started.
        figures: (what, value, unit).
        notes: sentences about how it was measured, and the tests that were skipped with their reasons.
        made: when it ran, and of which commit.
    """

    part: str
    outcome: str
    reason: str = ""
    seconds: float = 0.0
    log: str | None = None
    figures: list[tuple[str, float, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    made: str = ""


def kept(earlier: Path, facts: dict[str, Any], now: list[Result]) -> list[Result]:
    """What an earlier run on the same machine with the same versions found in the parts that did not run this time."""
    try:
        page = json.loads(earlier.read_text())
        if not _alike(page["machine"], facts):
            return []
        return [Result(**part) for part in page["parts"] if part["part"] not in {result.part for result in now}]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two runs' facts are those of one kind of machine, with the same version of each package that both had."""
    names = [[card["name"] for card in facts["cards"]] for facts in (one, other)]
    both = one["versions"].keys() & other["versions"].keys()
    return (one["processor"], names[0]) == (other["processor"], names[1]) and all(
        one["versions"][package] == other["versions"][package] for package in both
    )


def of_tests(path: Path) -> dict[str, Any]:
    """Outcome, reason and notes from a JUnit file that pytest wrote: failed where a test did, skipped where all were.

    Raises:
        OSError, ElementTree.ParseError: there is no such file, or it is not whole.
    """
    cases = list(ElementTree.parse(path).getroot().iter("testcase"))
    failed, skipped = [], []
    for case in cases:
        name = case.get("name", "?")
        for wrong in [*case.findall("failure"), *case.findall("error")]:
            failed.append(f"{name}: {_line(wrong.get('message'))}")
        for left in case.findall("skipped"):
            skipped.append((name, _line(left.get("message"))))
    passed = len(cases) - len({line.partition(":")[0] for line in failed}) - len(skipped)
    reasons = sorted({reason for _, reason in skipped})
    notes = [f"{passed} tests passed, {len(failed)} failed, {len(skipped)} were skipped."]
    notes += [f"{sum(why == reason for _, why in skipped)} skipped: {reason}" for reason in reasons]
    if failed:
        return {"outcome": "failed", "reason": failed[0], "notes": notes + failed[1:]}
    if not passed:
        return {"outcome": "skipped", "reason": "; ".join(reasons) or "no tests", "notes": []}
    return {"outcome": "passed", "reason": "", "notes": notes}


def _line(message: str | None) -> str:
    lines = (message or "?").strip().splitlines()
    return lines[0][:300] if lines else "?"


def slug(facts: dict[str, Any], device: str) -> str:
    """The name of the machine's card as part of a file's name."""
    name = facts["cards"][0]["name"] if facts["cards"] else device
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("nvidia", "")).strip("-")


def machine_lines(facts: dict[str, Any]) -> list[str]:
    """The machine in a few lines."""
    cards = facts["cards"]
    names = sorted({f"{card['name']} ({card['memory'] / 2**30:.0f} GiB)" for card in cards})
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    lines = [f"{len(cards)} x {' and '.join(names)}" if cards else "no CUDA device"]
    if cards:
        lines.append(f"driver {facts['driver']}, CUDA {facts['cuda']}, NCCL {facts['nccl']}")
    lines.append(f"{facts['processor']}, {facts['cores']} cores, {facts['memory'] / 2**30:.0f} GiB")
    return [*lines, f"Python {facts['python']}, {versions}"]


def table(results: list[Result]) -> str:
    """One line a part, for the terminal."""
    width = max(len(result.part) for result in results)
    lines = []
    for result in results:
        reason = f"  {result.reason}" if result.reason else ""
        log = f"  ({result.log})" if result.outcome == "failed" and result.log else ""
        lines.append(f"{result.part:<{width}}  {result.outcome:<7}  {result.seconds:6.1f} s{reason}{log}")
    return "\n".join(lines)


def page(results: list[Result], facts: dict[str, Any], how: dict[str, str]) -> str:
    """The page: machine, versions, command, outcomes, figures."""
    lines = [f"# On {slug(facts, 'cpu').upper()}" if facts["cards"] else "# Without a CUDA device", ""]
    lines += [f"Made by `{how['command']}`, commit {how['commit']}, {how['date']}.", ""]
    lines += [f"- {line}" for line in machine_lines(facts)]
    last = f"{how['date']}, commit {how['commit']}"
    older = [f"{result.part} ({result.made})" for result in results if result.made not in ("", last)]
    lines += [f"- Of an earlier run: {', '.join(older)}"] * bool(older)
    lines += ["", "| part | outcome | seconds | |", "|---|---|---|---|"]
    for result in results:
        log = f" (log: `{result.log}`)" if result.outcome == "failed" and result.log else ""
        lines.append(f"| {result.part} | {result.outcome} | {result.seconds:.1f} | {_cell(result.reason)}{log} |")
    for result in results:
        if result.figures or result.notes:
            lines += ["", f"## {result.part}", ""]
            lines += [f"- {note}" for note in result.notes]
        if result.figures:
            lines += [""] * bool(result.notes) + ["| | | |", "|---|---|---|"]
            lines += [f"| {_cell(what)} | {value:.4g} | {unit} |" for what, value, unit in result.figures]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
