"""docs/judgements.md: its example gives what the page shows."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from rlhf_dist.__main__ import main
from rlhf_dist.data.comparisons import read_comparison
from rlhf_dist.data.records import read_records

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "judgements.md"


def test_the_example_of_the_page_gives_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the output was changed on purpose, the assertion's message holds what belongs on the page."""
    block = re.search(r"```\n\$ rlhf-dist (.*)\n((?:.*\n)*?)```\n", PAGE.read_text())
    assert block is not None
    for file in (ROOT / "docs" / "examples").glob("*.jsonl"):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):  # any of them makes rich see a terminal
        monkeypatch.delenv(name, raising=False)
    assert main(shlex.split(block[1])) == 0
    shown = "".join(line.rstrip() + "\n" for line in capsys.readouterr().out.splitlines())
    assert block[2] == shown
    rows = [read_comparison(record) for record in read_records("rankings.jsonl", "train")]
    assert len(rows) == 9
