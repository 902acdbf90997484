"""Texts as HTML: whatever they hold, nothing runs, nothing loads, nothing leads away."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_dist.labelling.rendering import as_html

TAGS = set(
    "p h3 h4 h5 h6 blockquote ul ol li pre code em strong s br hr table thead tbody tr th td span".split()  # noqa: SIM905
)
PIECES = st.sampled_from(
    [
        "<script>",
        "</p>",
        "<img src=x onerror=y>",
        "[a](",
        "![",
        "](http://x)",
        "javascript:",
        "data:text/html,",
        "'",
        '"',
    ]
    + [
        "\n",
        "\n\n",
        "```",
        "`",
        "# ",
        "> ",
        "- ",
        "1. ",
        "|a|b|\n|-|-:|\n|",
        "&lt;",
        "&#x6a;",
        "<!--",
        "]]>",
        "\\",
        "~~",
    ]
    + ["<http://a.b>", "[r]: http://c", "[r]", "**", "_", "    ", "\u202e", "\u05d0", "x", "\x00", "on", "=", "style"]
)


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def seen(html: str) -> Seen:
    parser = Seen()
    parser.feed(html)
    parser.close()
    return parser


@given(st.lists(PIECES | st.text(max_size=5), max_size=40).map("".join))
def test_only_harmless_tags_and_attributes_come_of_any_text(text: str) -> None:
    found = seen(as_html(text))
    assert found.tags <= TAGS and found.attributes <= {"class", "dir", "start"}


@pytest.mark.parametrize(
    "text", ["<b>bold</b>", "<script>alert(1)</script>", "a <!-- b --> c", "<iframe src=x>", "&lt;b>"]
)
def test_html_is_shown_as_it_was_written(text: str) -> None:
    assert seen(as_html(text)).text.strip() == text.replace("&lt;", "<")


def test_links_and_images_are_words_with_their_address_behind_them() -> None:
    assert seen(as_html("[here](http://a.b/c) ![cat](http://d.e/f.png)")).text.strip() == (
        "here ‹http://a.b/c› cat ‹http://d.e/f.png›"
    )
    assert seen(as_html("<http://a.b>")).text.strip() == "http://a.b"


def test_each_block_finds_its_direction_and_code_runs_to_the_right() -> None:
    html = as_html("שלום\n\n- مرحبا\n\n```\ncode\n```\n`x`")
    assert html.count('<p dir="auto">') == 2 and '<li dir="auto">' in html
    assert '<pre dir="ltr">' in html and '<code dir="ltr">x' in html


def test_line_breaks_of_the_text_are_kept_and_headings_stand_below_the_pages() -> None:
    assert "<br" in as_html("one\ntwo") and "<h3" in as_html("# one") and "<h6" in as_html("###### six")


def test_columns_are_aligned_without_inline_styles() -> None:
    html = as_html("|a|b|\n|-|-:|\n|1|2|")
    assert "style" not in html and html.count('class="right"') == 2


def test_a_very_long_text_is_shown_as_it_is() -> None:
    assert as_html("*<" * 150_000).startswith('<pre dir="auto">*&lt;*&lt;')
