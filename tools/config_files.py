#!/usr/bin/env python3
"""Writes what shows the configuration's keys: the base files of configs/, and docs/configuration_keys.md.

They are made from the schema (rlhf_dist/config/schema/), which is where a key is added or changed. Then:
``.venv/bin/python tools/config_files.py``. `tests/config/test_config_files.py` fails where a file is another one.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # to be run as a file

from rlhf_dist.config.keys import Key, Section, schema_tree, section_tree, value_text  # noqa: E402
from rlhf_dist.config.schema import DPOConfig, PPOConfig, RewardModelConfig, SFTConfig  # noqa: E402

PAGE = "docs/configuration_keys.md"
_WIDTH = 110  # columns


@dataclass(frozen=True)
class Base:
    """The base file of a job, and what it says beside the schema.

    Attributes:
        job: the name of the job.
        kind: the class of its configuration.
        title: what the job does.
        fits: what the examples fit.
        examples: values that are not the schema's defaults, by their keys.
    """

    job: str
    kind: type
    title: str
    fits: str
    examples: Mapping[str, object]

    @property
    def launcher(self) -> str:
        """The script that starts the job."""
        return f"launch/{self.job}_llama.py"

    @property
    def file(self) -> str:
        """The file itself, in the repository."""
        return f"configs/{self.job}_llama.yaml"


BASES = (
    Base(
        "sft",
        SFTConfig,
        "Step 1, SFT: a pretrained model learns to answer as the demonstrations do.",
        "the base model and the data of the demo",
        {"run.name": "sft_llama", "data.path": "demo/data/sft.jsonl", "data.max_tokens": 256}
        | {"actor.model.path": "demo/base"},
    ),
    Base(
        "reward",
        RewardModelConfig,
        "Step 2, reward model: a model learns to score answers as the rankings do.",
        "the base model and the data of the demo",
        {"run.name": "reward_llama", "data.path": "demo/data/comparisons_train.jsonl", "data.max_tokens": 256}
        | {"reward.model.path": "demo/base"},
    ),
    Base(
        "ppo",
        PPOConfig,
        "Step 3, PPO: the policy answers prompts, a reward model scores the answers, the policy learns.",
        "what `make demo` leaves behind",
        {"run.name": "ppo_llama", "data.path": "demo/data/prompts_train.jsonl"}
        | {"actor.model.path": "runs/demo-sft/model", "reward.model.path": "runs/demo-reward/model"}
        | {"rollout.max_response_tokens": 128, "rollout.max_prompt_tokens": 128},
    ),
    Base(
        "dpo",
        DPOConfig,
        "DPO: the policy learns from rankings directly, without reward model and sampling (arXiv 2305.18290).",
        "the SFT model and the data of the demo",
        {"run.name": "dpo_llama", "data.path": "demo/data/comparisons_train.jsonl", "data.max_tokens": 256}
        | {"actor.model.path": "runs/demo-sft/model"},
    ),
)


def files() -> dict[str, str]:
    """The content of each file that is made from the schema, by its path in the repository."""
    return {base.file: base_file(base) for base in BASES} | {PAGE: keys_page()}


def base_file(base: Base) -> str:
    """A base file: all keys of a job as YAML, each with a comment."""
    lines = [
        *_comment(base.title, ""),
        "#",
        f"#   {base.launcher}",
        f"#   {base.launcher} --config my_recipe.yaml key=value ...",
        "#",
        *_comment(
            f"All keys with their defaults; what is marked as an example fits {base.fits}. docs/configuration.md says "
            "how recipes build on this file, which tools/config_files.py writes from the schema.",
            "",
        ),
    ]
    for item in schema_tree(base.kind).items:
        lines += ["", *_yaml(item, base.examples, "")]
    return "\n".join(lines) + "\n"


def _yaml(item: Key | Section, examples: Mapping[str, object], indent: str) -> Iterator[str]:
    """The lines of a key, or of a section and what is in it."""
    name = item.name.rpartition(".")[2]
    if isinstance(item, Key):
        value = value_text(examples[item.name]) if item.name in examples else item.default_text
        yield from _commented(f"{indent}{name}: {value}", _with_note(item, examples), indent)
    elif item.facts.named:
        yield from _comment(item.facts.sentence, indent)
        yield f"{indent}{name}: {{}}"
    else:
        yield from _commented(f"{indent}{name}:", item.facts.meaning if indent else item.facts.sentence, indent)
        for inner in item.items:
            yield from _yaml(inner, examples, f"{indent}  ")


def _with_note(key: Key, examples: Mapping[str, object]) -> str:
    """The description of a key, and whether its value is an example."""
    if key.name not in examples:
        return key.description
    default = f"; the default is {key.default_text}" if key.has_default else ""
    return f"{key.description} (example{default})"


def _commented(line: str, comment: str, indent: str) -> list[str]:
    """A line with its comment: behind it inside of a section, where there is room; else above it."""
    whole = f"{line}  # {comment}"
    if indent and len(whole) <= _WIDTH:
        return [whole]
    return [*_comment(comment if indent else comment[0].upper() + comment[1:], indent), line]


def _comment(text: str, indent: str) -> list[str]:
    start = f"{indent}# "
    return textwrap.wrap(
        text, _WIDTH, initial_indent=start, subsequent_indent=start, break_long_words=False, break_on_hyphens=False
    )


# --- the page -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A section of a job's configuration.

    Attributes:
        base: the base file of the job.
        section: the section, which is none within another one.
    """

    base: Base
    section: Section

    @property
    def name(self) -> str:
        """What its keys begin with, as code."""
        return f"`{self.section.name}.NAME`" if self.section.facts.named else f"`{self.section.name}`"


def keys_page() -> str:
    """The page of all keys: a table for each kind of section, with where it stands."""
    lines = [
        "# Configuration keys",
        "",
        "<!-- Written by tools/config_files.py from rlhf_dist/config/schema/. -->",
        "",
        "Every key of the launchers with its type, its default, the values that it may have, and what it means. The",
        "full name of a key begins with its section: `optim.lr` of `actor` is `actor.optim.lr`. How values are given,",
        "and which combinations are refused, is in [configuration.md](configuration.md).",
    ]
    groups = _groups()
    for group in groups:
        lines += ["", f"## {_heading(group, groups)}", "", *_where(group), "", *_table(group)]
    return "\n".join([*lines, "", "## Keys without a section", "", *_keys_without_section()]) + "\n"


def _groups() -> list[list[Place]]:
    """The sections of all jobs, together where they have the same keys; PPO's are listed first."""
    found: dict[type, list[Place]] = {}
    order: list[str] = []
    for base in sorted(BASES, key=lambda base: base.kind is not PPOConfig):
        for section in schema_tree(base.kind).items:
            if isinstance(section, Section):
                found.setdefault(section.facts.kind, []).append(Place(base, section))
                order.append(section.name)
    return sorted(found.values(), key=lambda group: order.index(group[0].section.name))


def _heading(group: list[Place], groups: list[list[Place]]) -> str:
    """The names of a group's sections, each with its launchers where another group has a section of that name."""
    others = {place.name for other in groups if other is not group for place in other}
    bases: dict[str, list[Base]] = {}
    for place in group:
        bases.setdefault(place.name, []).append(place.base)
    return ", ".join(f"{name} ({_launchers(of)})" if name in others else name for name, of in bases.items())


def _where(group: list[Place]) -> list[str]:
    """What each of a group's sections is for, by the launchers."""
    meanings: dict[tuple[str, str], list[Base]] = {}
    for place in group:
        meanings.setdefault((place.name, place.section.facts.meaning), []).append(place.base)
    return [f"- {name} of {_launchers(bases)}: {_cell(what)}" for (name, what), bases in meanings.items()]


def _launchers(bases: Iterable[Base]) -> str:
    jobs = list(dict.fromkeys(base.launcher for base in bases))
    return "every launcher" if len(jobs) == len(BASES) else ", ".join(f"`{job}`" for job in jobs)


def _table(group: list[Place]) -> list[str]:
    lines = ["| key | type | default | values | meaning |", "|---|---|---|---|---|"]
    for keys in zip(*(_relative_keys(place).items() for place in group), strict=True):
        name = keys[0][0]
        by_place = {place.name: key for place, (_, key) in zip(group, keys, strict=True)}
        lines.append(_row(name, by_place))
    return lines


def _relative_keys(place: Place) -> dict[str, Key]:
    """The keys of a section by their names within it."""
    section = place.section
    tree = section_tree(section.name, section.facts) if section.facts.named else section
    return {key.name.removeprefix(f"{section.name}."): key for key in tree.all_keys()}


def _row(name: str, by_place: Mapping[str, Key]) -> str:
    """The row of a key that stands in several sections. Only what counts where it is not set may differ among them."""
    key = next(iter(by_place.values()))
    required = [place for place, one in by_place.items() if one.required]
    unset: dict[str, list[str]] = {}
    for place, one in by_place.items():
        if one.unset:
            unset.setdefault(one.unset, []).append(place)
    default, meanings = f"`{key.default_text}`", [key.facts.meaning]
    if required:
        default = f"required in {', '.join(required)}" if unset else "required"
    for what, places in unset.items():
        where = "" if len(places) == len(by_place) else f" in {', '.join(places)}"
        meanings.append(f"null{where}: {what}")
    return f"| `{name}` | {key.type_name} | {default} | {_values(key)} | {_cell('; '.join(meanings))} |"


def _values(key: Key) -> str:
    facts = key.facts
    words = [f"`{name}`: {_cell(what)}" if what else f"`{name}`" for name, what in facts.choices.items()]
    words += [facts.form.words] if facts.form else []
    return "<br>".join(words) or facts.range


def _keys_without_section() -> list[str]:
    lines = ["| key | of | type | default | values | meaning |", "|---|---|---|---|---|---|"]
    found: dict[str, list[tuple[Base, Key]]] = {}
    for base in BASES:
        for key in schema_tree(base.kind).items:
            if isinstance(key, Key):
                found.setdefault(key.name, []).append((base, key))
    for name, those in found.items():
        key = those[0][1]
        of = _launchers(base for base, _ in those)
        row = (f"`{name}`", of, key.type_name, f"`{key.default_text}`", _values(key), _cell(key.facts.meaning))
        lines.append(f"| {' | '.join(row)} |")
    return lines


def _cell(text: str) -> str:
    """A text as Markdown shows it in a table, with links to the other pages."""
    escaped = text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
    return re.sub(r"docs/(\w+\.md)", r"[\1](\1)", escaped)


def main() -> int:
    """Writes all the files, and says which ones were other ones before."""
    for name, content in files().items():
        path = ROOT / name
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8")
            print(f"wrote {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
