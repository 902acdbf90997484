"""The documentation site: ``make docs`` builds it, tests/docs/test_site.py allows no warning.

The site's source folder is the whole repository (``sphinx-build -c docs . OUT``), so that a link between any two
Markdown files, README.md included, is the same on GitHub and on the site. ``include_patterns`` says which files are
pages. A link to any other file of the repository leads to its source: ``linked_to_source``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging

ROOT = Path(__file__).resolve().parents[1]

project = "rlhf_dist"
author = "The rlhf_dist authors"
copyright = author
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**", "benchmarks/results/*.md"]
# What Sphinx need not walk: every folder without pages, such as .venv.
exclude_patterns = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in ("docs", "benchmarks")]
exclude_patterns += ["docs/_build"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
highlight_language = "none"  # of blocks that name none
myst_heading_anchors = 4  # GitHub's own anchors, so that page.md#a-heading works in both places

# The reference of the code, in docs/api: docstrings of Google's form, with `names` in single backticks as code.
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autoclass_content = "both"  # the docstring of __init__ too
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Attributes", "params_style")]  # a list, as of arguments; the signature has the types
default_role = "literal"
add_module_names = False  # the heading names the module
maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "rlhf_dist"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
html_additional_pages = {"index": "root.html"}  # the pages keep their folders, so the first one is docs/index.html
templates_path = ["_templates"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False


def lists_to_toctrees(app: Sphinx, docname: str, source: list[str]) -> None:
    """Makes the lists of pages, which stand below headings of an index.md, the site's tables of contents."""
    if docname.endswith("index"):
        source[0] = re.sub(r"^##+ (.+)\n\n((?:- \[.+\]\(.+\.md\)\n)+)", toctree, source[0], flags=re.MULTILINE)


def toctree(pages: re.Match[str]) -> str:
    """A heading with its list of links as Sphinx' directive."""
    entries = re.sub(r"- \[(.+)\]\((.+)\.md\)", r"\1 <\2>", pages[2])
    return f"```{{toctree}}\n:caption: {pages[1]}\n:maxdepth: 1\n\n{entries}```\n"


def linked_to_source(app: Sphinx, doctree: nodes.document) -> None:
    """Makes the links to files and folders that are no pages lead to their source.

    That is below the configuration value ``source_url``, as ``make docs SOURCE_URL=https://github.com/O/N/blob/COMMIT``
    sets it; without one, as in a build on one's own machine, the file in the checkout. A file that does not exist is a
    warning.
    """
    page = Path(app.outdir) / app.builder.get_target_uri(app.env.docname)
    for link in [*doctree.findall(addnodes.download_reference), *doctree.findall(addnodes.pending_xref)]:
        path = linked_file(app, link)
        if path is None:
            continue
        if not path.exists():
            logging.getLogger(__name__).warning("no such file: %s", path, location=link)
        base = app.config.source_url
        url = f"{base}/{path.relative_to(ROOT)}" if base else os.path.relpath(path, page.parent)
        link.replace_self(nodes.reference("", "", *link.children, refuri=url, internal=False))


def linked_by_title(app: Sphinx, doctree: nodes.document) -> None:
    """Makes a link that is written as a file's name, as ``[data.md](data.md#errors)`` is, read as the title there."""
    for link in doctree.findall(addnodes.pending_xref):
        if link.get("refdomain") == "doc" and re.fullmatch(r"[\w/.]+\.md", link.astext()):
            link["refexplicit"] = False


def linked_file(app: Sphinx, link: nodes.Element) -> Path | None:
    """The file or folder that a Markdown link names, or None where it leads to a page or to a heading."""
    target = link["reftarget"]
    if link.get("reftype") != "myst" or target in app.env.found_docs:
        return None
    if link.get("refdomain") == "doc":
        return ROOT / f"{target}.md"
    if link.get("refdomain") or target.startswith("#"):
        return None
    return Path(os.path.normpath(ROOT / Path(app.env.docname).parent / target))


def plain_signature(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None] | None:
    """Leaves out the arguments that Python gives a Protocol, and spells a default that a dataclass makes ``...``."""
    if what == "class" and getattr(thing, "_is_protocol", False):
        return "", ""
    return signature and signature.replace("<factory>", "..."), returns


def without_long_values(app: Sphinx, domain: str, kind: str, content: addnodes.desc_content) -> None:
    """Shows the value of a constant where it is short."""
    if kind == "data":
        for part in list(content.parent.findall(addnodes.desc_annotation)):
            if len(part.astext()) > 60 and part.astext().startswith(" = "):
                part.parent.remove(part)


def without_fields_of_tuples(app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out "Alias for field number 0": the docstring of a NamedTuple describes its fields."""
    return True if type(thing).__name__ == "_tuplegetter" else None


def without_types_in_texts(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Puts an empty type before texts whose beginning, up to a colon, napoleon would take for their type."""
    texts = [0] if what in ("attribute", "property", "data") else []
    for at in texts + [number + 1 for number, line in enumerate(lines) if line.strip() == "Returns:"]:
        text = lines[at].lstrip()
        lines[at] = lines[at].removesuffix(text) + ": " + text


def unknown_type(app: Sphinx, domain: Any, node: addnodes.pending_xref) -> bool | None:
    """Allows types of other libraries, and internal ones, in signatures; what a docstring refers to must be there."""
    package, dot, _ = node["reftarget"].partition(".")
    elsewhere = bool(dot) and package != "rlhf_dist"
    in_signature = not any(isinstance(child, nodes.literal) for child in node.children)
    return True if node["reftype"] in ("class", "obj") and (elsewhere or in_signature) else None


def setup(app: Sphinx) -> None:
    """What Sphinx calls first."""
    app.add_config_value("source_url", "", "env", str)
    app.connect("source-read", lists_to_toctrees)
    app.connect("autodoc-process-signature", plain_signature)
    app.connect("object-description-transform", without_long_values)
    app.connect("autodoc-skip-member", without_fields_of_tuples)
    app.connect("autodoc-process-docstring", without_types_in_texts, priority=400)  # before napoleon
    app.connect("warn-missing-reference", unknown_type)
    app.connect("doctree-read", linked_by_title)
    app.connect("doctree-read", linked_to_source, priority=400)  # before Sphinx collects what there is to download
