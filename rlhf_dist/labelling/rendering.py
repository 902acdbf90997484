"""Texts of users and models as HTML that runs nothing, loads nothing and leads nowhere."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

ATTRIBUTES = frozenset({"class", "dir", "start"})
_BLOCKS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "ul", "ol", "li", "th", "td"})
_LONGEST = 200_000  # characters that are looked at as Markdown; longer texts are shown as they are


class _Renderer(RendererHTML):
    """Links and images are words with their address behind them; no attribute is written but :data:`ATTRIBUTES`."""

    @staticmethod
    def renderAttrs(token: Token) -> str:
        allowed = {name: value for name, value in token.attrs.items() if name in ATTRIBUTES}
        return "".join(f' {name}="{html.escape(str(value))}"' for name, value in allowed.items())

    def fence(self, tokens: Sequence[Token], idx: int, options: object, env: object) -> str:
        return f'<pre dir="ltr"><code>{html.escape(tokens[idx].content)}</code></pre>\n'

    def code_block(self, tokens: Sequence[Token], idx: int, options: object, env: object) -> str:
        return self.fence(tokens, idx, options, env)

    def link_open(self, tokens: Sequence[Token], idx: int, options: object, env: object) -> str:
        return '<span class="link">'

    def link_close(self, tokens: Sequence[Token], idx: int, options: object, env: object) -> str:
        opened = max(place for place in range(idx) if tokens[place].type == "link_open")  # links do not nest
        written_out = tokens[opened].markup == "autolink"
        return "</span>" + ("" if written_out else _address(str(tokens[opened].attrs.get("href", ""))))

    def image(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        token = tokens[idx]
        alt = self.renderInlineAsText(token.children or [], options, env)
        return f'<span class="image">{html.escape(alt) or "image"}</span>{_address(str(token.attrs.get("src", "")))}'


def _fit_to_page(state: StateCore) -> None:
    """Each block finds its own direction, left to right or right to left; code always runs to the right.

    Headings go two levels down, below those of the page.
    """
    for token in state.tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
        if token.nesting == 1 and token.tag in _BLOCKS:
            token.attrSet("dir", "auto")
            if "right" in str(token.attrs.get("style", "")):
                token.attrSet("class", "right")
        for child in token.children or []:
            if child.type == "code_inline":
                child.attrSet("dir", "ltr")


def _address(target: str) -> str:
    return f' <span class="address" dir="ltr">‹{html.escape(target)}›</span>' if target else ""


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "linkify": False, "breaks": True}, renderer_cls=_Renderer)
    parser.core.ruler.push("fit_to_page", _fit_to_page)
    return parser.enable(["table", "strikethrough"])


_MARKDOWN = _parser()


def as_html(text: str) -> str:
    """Markdown as HTML without links, images or any attribute but :data:`ATTRIBUTES`; HTML in it is shown as text."""
    if len(text) > _LONGEST:
        return f'<pre dir="auto">{html.escape(text)}</pre>'
    return str(_MARKDOWN.render(text))
