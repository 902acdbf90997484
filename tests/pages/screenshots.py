"""Pictures of every page, in light, in dark and at a phone's width, for people to look at.

    .venv/bin/python -m tests.pages.screenshots FOLDER [PART_OF_A_NAME ...]

They are those that commands write, of made-up runs (tests/pages/made.py), and those of `rlhf-dist label`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.browser import ATTACK, ATTACK_NAME, LOOKS, launched
from tests.labelling.serving import Server
from tests.pages.made import LONG_WORD, RIGHT_TO_LEFT, make_pages

_CODE = "```python\nfor row in rows:\n    print(row)  # a line of code that is too long for the column it is in\n```"
_ROWS = [
    {"prompt": "Write a **short** greeting.", "answers": [{"text": "Good morning!"}, {"text": _CODE}]},
    {"prompt": RIGHT_TO_LEFT, "answers": [{"text": f"{RIGHT_TO_LEFT} {LONG_WORD}"}, {"text": ATTACK}]},
]


def take(folder: Path, parts: list[str]) -> None:
    """Writes NAME-LOOK.png of each page whose name contains one of ``parts``, or of all."""
    written = {name: path.as_uri() for name, path in make_pages(folder).items()}
    with launched() as browser, _served(folder) as served:
        for look, how in LOOKS.items():
            for name, address in (written | served).items():
                if not parts or any(part in name for part in parts):
                    _picture(browser.new_context(**how), address, folder / f"{name}-{look}.png")


def _picture(context: Any, address: str, path: Path) -> None:
    page = context.new_page()
    page.goto(address)
    page.wait_for_load_state("networkidle")
    page.evaluate("document.querySelectorAll('details').forEach((element) => { element.open = true; })")
    page.screenshot(path=path, full_page=True)
    context.close()
    print(path)


@contextmanager
def _served(folder: Path) -> Iterator[dict[str, str]]:
    """The addresses of the labellers' page of each task, and of the operator's, while their servers run."""
    candidates, guidelines = folder / "candidates.jsonl", folder / "guidelines.md"
    candidates.write_text("".join(json.dumps(row) + "\n" for row in _ROWS))
    guidelines.write_text(f"# Be fair\n\nTies are *welcome*.\n\n{RIGHT_TO_LEFT}\n\n{LONG_WORD}")
    words = [str(candidates), "--guidelines", str(guidelines), "--labellers", f"ann,{ATTACK_NAME}", "--shared", "1"]
    servers: dict[str, Server] = {}
    try:
        for task in ("rank", "compare", "rate", "demonstrate"):
            servers[task] = Server(*words, "--task", task, "--out", str(folder / f"{task}.jsonl"))
        addresses = {f"label-{task}": server.link("ann") for task, server in servers.items()}
        yield addresses | {"label-operator": servers["rank"].link("operator")}
    finally:
        for server in servers.values():
            server.kill()


if __name__ == "__main__":
    take(Path(sys.argv[1]), sys.argv[2:])
