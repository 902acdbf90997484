#!/usr/bin/env python3
"""Writes the tables of docs/metrics.md from the table of metrics, rlhf_dist/controller/metric_table.py.

What stands between `<!-- table: SUBJECT -->` and `<!-- end -->` is replaced; the rest of the page is written by hand.
Run ``.venv/bin/python tools/metrics_page.py``; `tests/controller/test_metric_table.py` fails where a table is another.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # to be run as a file

from rlhf_dist.controller.metric_table import GROUPS, Metric  # noqa: E402

PAGE = "docs/metrics.md"
_BLOCK = re.compile(r"(<!-- table: (.+?) -->\n).*?(\n<!-- end -->)", re.DOTALL)


def with_tables(page: str) -> str:
    """The page with the tables of today. ValueError where it lacks the table of a subject, or has one of another."""
    subjects = [found[2] for found in _BLOCK.finditer(page)]
    if sorted(subjects) != sorted(GROUPS):
        raise ValueError(f"{PAGE} has the tables {subjects}, expected one each of {list(GROUPS)}")
    return _BLOCK.sub(lambda found: found[1] + _table(GROUPS[found[2]]) + found[3], page)


def _table(metrics: tuple[Metric, ...]) -> str:
    """The table of a subject; a metric's jobs are named where not all of the subject's metrics belong to the same."""
    one = len({metric.jobs for metric in metrics}) == 1
    lines = ["| metric | unit | what it is | phase |", "|---|---|---|---|"]
    return "\n".join(lines + [_row(metric, with_jobs=not one) for metric in metrics])


def _row(metric: Metric, with_jobs: bool) -> str:
    jobs = f" of {', '.join(f'`{job}`' for job in metric.jobs)}" if with_jobs else ""
    when = f"; only if {metric.when}" if metric.when else ""
    cells = (f"`{metric.name}`", metric.unit, metric.meaning, f"{metric.phase}{jobs}{when}")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def main() -> int:
    """Writes the page, and says whether it was another one before."""
    path = ROOT / PAGE
    page = path.read_text(encoding="utf-8")
    if with_tables(page) != page:
        path.write_text(with_tables(page), encoding="utf-8")
        print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
