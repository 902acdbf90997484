"""The pages that commands write, in a browser: figures by pointer and keys, no barriers, nothing that runs or loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_dist.controller.rundir import read_jsonl
from tests.browser import ATTACK, ATTACK_NAME, LOOKS, Watch, needs_chromium, sync_api, too_wide, violations
from tests.pages.made import make_pages

pytestmark = [pytest.mark.slow, needs_chromium]
ELEMENTS = (
    "img, iframe, base, link, object, embed, form, input, [http-equiv=refresh], [onerror], [onload], [onmouseover]"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made")


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[str, Path]:
    return make_pages(folder)


def opened(page: Any, path: Path) -> None:
    """Opens a page, with all that it folds away."""
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((element) => { element.open = true; })")


@pytest.mark.parametrize("look", LOOKS)
def test_no_page_has_an_accessibility_violation_or_is_wider_than_its_window(
    pages: dict[str, Path], chromium: Any, look: str
) -> None:
    page = chromium.new_context(**LOOKS[look]).new_page()
    found: list[str] = []
    for name, path in pages.items():
        if (look, name.endswith("extreme")) in (("dark", True), ("light", False)):
            continue  # of each kind of page one is enough, but for its width
        opened(page, path)
        found += violations(page, name, look) + too_wide(page, name)
    page.context.close()
    assert not found


def tip(chart: Any) -> str:
    """What is shown of the chart where the pointer or the keys are."""
    return " ".join(chart.locator(".tip").inner_text().split())


def shown(value: float) -> str:
    return f"{value:.4g}"


def test_a_curve_is_read_off_by_pointer_and_by_keys(pages: dict[str, Path], folder: Path, chromium: Any) -> None:
    page = chromium.new_context(**LOOKS["light"]).new_page()
    page.goto(pages["run"].as_uri())
    lengths = [row["throughput/tokens_per_s"] for row in read_jsonl(folder / "runs" / "demo-ppo" / "metrics.jsonl")]
    chart = page.locator(".chart", has_text="Throughput")
    curve = chart.locator("svg[data-plot]")
    means = {
        step: sum(lengths[max(step - 3, 0) : step + 2]) / len(lengths[max(step - 3, 0) : step + 2])
        for step in (1, 59, 60)
    }
    assert chart.locator(".tip").is_hidden()
    curve.focus()
    page.keyboard.press("End")
    assert tip(chart) == f"step 60 tokens/s {shown(means[60])}"
    page.keyboard.press("ArrowLeft")
    assert tip(chart) == f"step 59 tokens/s {shown(means[59])}"
    page.keyboard.press("Home")
    assert tip(chart) == f"step 1 tokens/s {shown(means[1])}"
    page.keyboard.press("Escape")
    assert chart.locator(".tip").is_hidden()
    box = curve.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 1, box["y"] + box["height"] / 2)
    assert tip(chart) == f"step 60 tokens/s {shown(means[60])}"
    page.mouse.move(0, 0)
    assert chart.locator(".tip").is_hidden()
    page.context.close()


def test_curves_of_several_runs_are_compared_hidden_and_shown_by_keys_alone(
    pages: dict[str, Path], chromium: Any
) -> None:
    page = chromium.new_context(**LOOKS["phone"], has_touch=True).new_page()
    page.goto(pages["runs"].as_uri())
    chart = page.locator(".chart", has_text="KL to the reference")
    chart.locator("svg[data-plot]").focus()
    page.keyboard.press("ArrowRight")
    both = tip(chart)
    assert both.startswith("step 1 grpo (3 runs) ") and " to " in both and " ppo " in both
    page.locator("button", has_text="grpo").focus()
    page.keyboard.press("Space")
    assert page.locator("button", has_text="grpo").get_attribute("aria-pressed") == "false"
    chart.locator("svg[data-plot]").tap()
    assert "grpo" not in tip(chart) and " ppo " in tip(chart)
    assert chart.locator('[data-line="0"]').is_hidden() and chart.locator('[data-line="1"]').is_visible()
    plane = page.locator(".chart", has_text="against KL")
    plane.locator("svg[data-plot]").focus()
    page.keyboard.press("End")
    assert tip(plane).startswith("step 60, KL ")
    page.context.close()


def test_what_is_injected_is_shown_as_text_runs_nothing_and_loads_nothing(
    pages: dict[str, Path], chromium: Any
) -> None:
    context, watch = chromium.new_context(**LOOKS["light"]), Watch()
    page = watch.tab(context)
    for name, path in pages.items():
        opened(page, path)
        text = page.evaluate("document.body.textContent")
        if name.endswith("extreme"):
            assert ATTACK in text or name == "judgements-extreme", name
        if name in ("run-extreme", "runs-extreme", "judgements-extreme"):
            assert ATTACK_NAME in text, name
        assert page.locator(ELEMENTS).count() == 0 and page.locator("script").count() <= 1, name
        for chart in page.locator(".chart svg[data-plot]").all():
            chart.focus()
            page.keyboard.press("End")
        sync_api.expect(page.locator("h1")).to_be_visible()
    assert not watch.complaints
    assert watch.loads == [path.as_uri() for path in pages.values()]
    context.close()
