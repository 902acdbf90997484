"""Pages for a browser: one HTML file that needs nothing else, with the style sheet that reports and summaries share."""

from __future__ import annotations

import html
from importlib import resources


def page(title: str, body: str) -> str:
    """A whole HTML document: light and dark, for any width of window, without a script or a link to elsewhere.

    Args:
        title: as text; it is escaped here.
        body: as HTML, whatever came from data escaped by :func:`escaped`.
    """
    style = resources.files("rlhf_dist").joinpath("page.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escaped(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{style}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def escaped(value: object) -> str:
    """A value as text within HTML, or within an attribute's quotes, whatever it holds."""
    return html.escape(str(value))
