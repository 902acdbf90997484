"""Pages for a browser: one HTML file that needs nothing else, with the style sheet that reports and summaries share."""

from __future__ import annotations

import base64
import hashlib
import html
from importlib import resources

_LONG_TEXT = 40  # characters, from which a cell is not squeezed to the width of a word


def page(title: str, body: str, script: str | None = None) -> str:
    """A whole HTML document: light and dark, for any width of window, without a link to elsewhere.

    Its Content-Security-Policy lets nothing be loaded and no script run but the page's own, so that data that came
    through unescaped could do nothing either.

    Args:
        title: as text; it is escaped here.
        body: as HTML, whatever came from data escaped by :func:`escaped`.
        script: a file of this package whose text the page runs; None: no script runs.
    """
    code = "" if script is None else _resource(script)
    allowed = f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'" if code else "'none'"
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<title>{escaped(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{_resource('page.css')}</style></head>\n<body><main>\n{body}\n</main>"
        + (f"\n<script>{code}</script>" if code else "")
        + "</body></html>\n"
    )


def named(value: object) -> str:
    """A name as text within HTML that leaves the order of the text around it alone, whichever way it is written."""
    return f"<bdi>{escaped(value)}</bdi>"


def text_cell(value: object, tag: str = "td", before: str = "") -> str:
    """A cell of a table that holds text from data, of a width that suits it, after ``before``, which is HTML."""
    return f'<{tag} class="words{long_class(value)}">{before}{named(value)}</{tag}>'


def long_class(value: object) -> str:
    """What the classes of a cell end with if its text is too long for the width of a word."""
    return " long" if len(str(value)) > _LONG_TEXT else ""


def scrolled(name: str, inside: str) -> str:
    """A card that scrolls sideways where ``inside``, which is HTML, is wider: by keys too, under this name."""
    return f'<div class="card scroll" tabindex="0" role="region" aria-label="{escaped(name)}">{inside}</div>'


def _resource(name: str) -> str:
    return resources.files("rlhf_dist").joinpath(name).read_text(encoding="utf-8")


def escaped(value: object) -> str:
    """A value as text within HTML, or within an attribute's quotes, whatever it holds."""
    return html.escape(str(value))
