"""A Chromium for the tests of pages, and what it sees: requests, complaints, barriers, pages wider than the window.

Importing this skips a module where Playwright is not installed; where there is no Chromium, its tests are skipped.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="the extra `test` is not installed whole: no playwright")
axe = pytest.importorskip("axe_playwright_python.base", reason="no axe-playwright-python")

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
needs_chromium = pytest.mark.skipif(
    _CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)
WAIT_MS = 15_000
WIDE, PHONE = {"width": 1360, "height": 900}, {"width": 390, "height": 844}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": WIDE},
    "dark": {"color_scheme": "dark", "viewport": WIDE},
    "phone": {"color_scheme": "light", "viewport": PHONE},
}

# axe's rules for each: what colours and widths cannot change is looked for once, in light.
RULES: dict[str, list[str] | None] = {
    "light": None,
    "dark": ["color-contrast"],
    "phone": ["scrollable-region-focusable", "target-size"],
}

OUTSIDE = "http://outside.example"
# A name that a folder can have; and a text that tries all that a page may fall for.
ATTACK_NAME = "<img src=x onerror=alert(9)>\"'{{7+7}}"
ATTACK = (
    f"<script>alert(1)</script></script></style></title></textarea><img src={OUTSIDE}/a onerror=alert(2)> "
    f"![i]({OUTSIDE}/b) [l](javascript:alert(3)) <style>@import url({OUTSIDE}/c);body{{display:none}}</style>"
    f'<iframe src={OUTSIDE}/d></iframe><svg onload=alert(4)><use href={OUTSIDE}/e></svg>" onmouseover=alert(5) x="\' '
    f"<meta http-equiv=refresh content=0;url={OUTSIDE}/f><base href={OUTSIDE}> [m]({OUTSIDE}/g) "
    "{{7+7}} ${7+7} <%= 7+7 %> &lt;b&gt; <!-- -->"
)


@contextmanager
def launched() -> Iterator[Any]:
    """A browser, closed at the end."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=_FLAGS)
        yield browser
        browser.close()


@dataclass
class Watch:
    """What pages asked for, and what they complained of.

    Attributes:
        loads: addresses of all requests.
        complaints: messages of errors, dialogs and exceptions.
    """

    loads: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def tab(self, context: Any) -> Any:
        """A new page that is watched."""
        page = context.new_page()
        page.on("request", lambda request: self.loads.append(request.url))
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        return page


def violations(page: Any, where: str, look: str) -> list[str]:
    """What axe finds by the rules for a look, each in a line with ``where``."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(axe.AXE_SCRIPT)
    rules = RULES[look]
    options = {"resultTypes": ["violations"]} | ({} if rules is None else {"runOnly": rules})
    found = page.evaluate("options => axe.run(document, options)", options)["violations"]
    return [f"{where}: {one['id']}: {[node['target'] for node in one['nodes']]}" for one in found]


def too_wide(page: Any, where: str) -> list[str]:
    """A line with ``where`` if the page has to be scrolled sideways."""
    wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    return [f"{where} is wider than its window"] if wide else []
