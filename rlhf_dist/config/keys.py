"""The schema as a flat list of dotted keys and sections, and as the tree that they form."""

from __future__ import annotations

import dataclasses
import functools
import json
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from rlhf_dist.config.schema.define import FACTS, Facts, SectionFacts

_TYPES = {int: "int", float: "float", bool: "bool", str: "string"}
_EXPECTED = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}


@dataclass(frozen=True)
class Key:
    """One key of the configuration.

    Attributes:
        name: the dotted key, as on the command line.
        base: int, float, bool, str, or list.
        optional: whether null is one of its values.
        default: the schema's default; ``omegaconf.MISSING`` where it has none.
        facts: what it means, and which values it may have.
        unset: what counts where it has no default and is not set; empty where it must be set.
        element: the type of a list's elements.
    """

    name: str
    base: type
    optional: bool
    default: Any
    facts: Facts
    unset: str = ""
    element: type | None = None

    @property
    def has_default(self) -> bool:
        """Whether the schema has a default for it."""
        return not is_missing(self.default)

    @property
    def required(self) -> bool:
        """Whether the user must set it."""
        return not self.has_default and not self.unset

    @property
    def type_name(self) -> str:
        """Its type as documents show it: "int", "string or null", "[float, ...]"."""
        name = f"[{_TYPES[self.element]}, ...]" if self.element is not None else _TYPES[self.base]
        return f"{name} or null" if self.optional or self.unset else name

    @property
    def default_text(self) -> str:
        """Its default as a user would write it; null where it has none."""
        return value_text(self.default if self.has_default else None)

    @property
    def description(self) -> str:
        """What it means, with its choices or form, in one line."""
        return f"{self.facts.description}; null: {self.unset}" if self.unset else self.facts.description

    @property
    def expected(self) -> str:
        """What type a value must have, in words: "an integer", "a number or null", ..."""
        words = _EXPECTED | {list: "a list of strings, as [A, B]" if self.element is str else "a list of numbers"}
        return words[self.base] + (" or null" if self.optional else "")


@dataclass(frozen=True)
class Section:
    """One section of the configuration.

    Attributes:
        name: the dotted name; empty for the whole configuration.
        facts: what it is for.
        items: its keys and the sections within it, as they are listed; of a section whose parts the user names, none.
    """

    name: str
    facts: SectionFacts
    items: tuple[Key | Section, ...]

    def all_keys(self) -> Iterator[Key]:
        """Its keys and those of the sections within it."""
        for item in self.items:
            if isinstance(item, Key):
                yield item
            else:
                yield from item.all_keys()

    def all_sections(self) -> Iterator[Section]:
        """The sections within it, at all depths."""
        for item in self.items:
            if isinstance(item, Section):
                yield item
                yield from item.all_sections()


@functools.lru_cache
def schema_tree(kind: type) -> Section:
    """The configuration class ``kind`` as a tree, in the schema's order."""
    return section_tree("", SectionFacts(kind, "", {}))


def section_tree(name: str, facts: SectionFacts) -> Section:
    """A section of the dotted ``name`` with all that is in it; or one part of a section whose parts the user names."""
    hints = typing.get_type_hints(facts.kind)
    items: list[Key | Section] = []
    for field in sorted(dataclasses.fields(facts.kind), key=_is_last):
        inside = f"{name}.{field.name}" if name else field.name
        known = _facts(facts.kind, field)
        if isinstance(known, Facts):
            items.append(_key(inside, field, hints[field.name], known, facts.unset.get(field.name, "")))
        elif known.named:
            items.append(Section(inside, known, ()))
        else:
            items.append(section_tree(inside, dataclasses.replace(known, unset=_unset_in(field.name, facts, known))))
    return Section(name, facts, tuple(items))


def schema_keys(kind: type, mentioned: Iterable[str] = ()) -> dict[str, Key]:
    """All keys of the configuration class ``kind`` by their dotted names, in the schema's order.

    Of a section whose parts the user names (:func:`named_sections`), those parts are there that one of the dotted
    keys of ``mentioned`` stands in.
    """
    trees = [schema_tree(kind), *_named_parts(kind, mentioned)]
    return {key.name: key for tree in trees for key in tree.all_keys()}


def schema_sections(kind: type, mentioned: Iterable[str] = ()) -> dict[str, Section]:
    """The sections of ``kind`` by their dotted names, nested ones included, in the schema's order.

    Of those whose parts the user names, the parts are there that one of the dotted keys of ``mentioned`` stands in.
    """
    parts = list(_named_parts(kind, mentioned))
    found = [section for tree in (*parts, schema_tree(kind)) for section in tree.all_sections()]
    return {section.name: section for section in found}


def named_sections(kind: type) -> dict[str, SectionFacts]:
    """The sections of ``kind`` that hold parts under names of the user's."""
    return {section.name: section.facts for section in schema_tree(kind).all_sections() if section.facts.named}


def value_of(config: Any, name: str) -> Any:
    """The value of a dotted key of a configuration object, or a section of it; the object itself of an empty name."""
    return functools.reduce(_child, name.split(".") if name else [], config)


def keys_of(config: object) -> dict[str, Key]:
    """All keys of a configuration object by their dotted names, those of its named sections' parts included."""
    named = named_sections(type(config))
    parts = [f"{section}.{name}.any" for section in named for name in value_of(config, section)]
    return schema_keys(type(config), parts)


def is_missing(value: object) -> bool:
    """Whether ``value`` is the mark of a key without default that was not set (``omegaconf.MISSING``)."""
    return isinstance(value, str) and value == MISSING


def value_text(value: object) -> str:
    """A value as a user would write it in YAML: null, true, 1.0e-5, [0.9, 0.95], ..."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(value_text, value))}]"
    if isinstance(value, float) and "e" in repr(value):  # YAML's numbers have a point
        mantissa, _, exponent = repr(value).partition("e")
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent):+d}"
    return json.dumps(value) if isinstance(value, str) and not value.isprintable() else str(value)


def _child(node: Any, name: str) -> Any:
    return node[name] if isinstance(node, dict) else getattr(node, name)


def _named_parts(kind: type, mentioned: Iterable[str]) -> Iterator[Section]:
    """Each named part that ``mentioned`` keys stand in, once."""
    named = named_sections(kind)
    parts = {}
    for key in mentioned:
        section, name, *rest = [*key.split("."), ""][:3]
        if section in named and name and rest != [""]:
            parts[f"{section}.{name}"] = named[section]
    for name, facts in parts.items():
        yield section_tree(name, facts)


def _facts(kind: type, field: dataclasses.Field[object]) -> Facts | SectionFacts:
    known = field.metadata.get(FACTS)
    if not isinstance(known, Facts | SectionFacts):
        raise TypeError(f"{kind.__name__}.{field.name}: the schema has only fields of key() and section()")
    return known


def _is_last(field: dataclasses.Field[object]) -> bool:
    known = field.metadata.get(FACTS)
    return isinstance(known, Facts) and known.last


def _unset_in(name: str, outer: SectionFacts, inner: SectionFacts) -> Mapping[str, str]:
    """`SectionFacts.unset` of a section ``name``, with what the section around it says of its keys."""
    start = f"{name}."
    return {**inner.unset, **{k.removeprefix(start): what for k, what in outer.unset.items() if k.startswith(start)}}


def _key(name: str, field: dataclasses.Field[object], hint: Any, facts: Facts, unset: str) -> Key:
    base, optional, element = _leaf_type(hint)
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return Key(name, base, optional, default, facts, unset, element)


def _leaf_type(hint: Any) -> tuple[type, bool, type | None]:
    """(the type without Optional and element type, whether it was Optional, the element type of a list)."""
    parts = typing.get_args(hint)
    optional = type(None) in parts
    if optional:
        (hint,) = [part for part in parts if part is not type(None)]
    element = typing.get_args(hint)[0] if typing.get_origin(hint) is list else None
    return (typing.get_origin(hint) or hint), optional, element
