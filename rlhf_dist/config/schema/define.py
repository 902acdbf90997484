"""How a key of the schema is defined: :func:`key` and :func:`section` take all there is to say of one beside its type.

`--help`, the checks, the base files of configs/ and docs/configuration_keys.md are made from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

FACTS = "facts"  # a field's metadata holds its Facts or SectionFacts under this name


@dataclass(frozen=True)
class Form:
    """The form of a text.

    Attributes:
        pattern: a regular expression that matches the whole of it.
        words: how it is described to users.
    """

    pattern: str
    words: str


#: A Python function of the user's own.
FUNCTION = Form(r".+:[^\W\d]\w*(\.[^\W\d]\w*)*", '"package.module:function" or "path/file.py:function"')


@dataclass(frozen=True)
class Facts:
    """What a key means, and which values of its type it may have: all finite ones, unless something here says less.

    Attributes:
        meaning: a phrase, lower case, without a full stop. It says what 0 and null mean where they are special.
        choices: the values by their texts, each with its meaning, which may be empty.
        least, above, most, below: bounds of a number, or of each number of a list.
        length: of a list.
        form: of a text; where there are choices, of what is none of them.
        last: whether it is listed after the other keys of its section, because few recipes set it.
    """

    meaning: str
    choices: Mapping[str, str]
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    length: int | None = None
    form: Form | None = None
    last: bool = False

    @property
    def description(self) -> str:
        """The meaning with the choices or the form behind it, in one line."""
        kinds = [f"{name} ({meaning})" if meaning else name for name, meaning in self.choices.items()]
        kinds += [self.form.words] if self.form else []
        return f"{self.meaning}: {' | '.join(kinds)}" if kinds else self.meaning

    @property
    def range(self) -> str:
        """The bounds in words, such as "1 or more" or "from 0 to 1"; empty where there are none."""
        if self.least is not None and self.most is not None:
            words = [f"from {self.least:g} to {self.most:g}"]
        else:
            words = [f"{self.least:g} or more"] if self.least is not None else []
            words += [f"above {self.above:g}"] if self.above is not None else []
            words += [f"at most {self.most:g}"] if self.most is not None else []
            words += [f"below {self.below:g}"] if self.below is not None else []
        bounds = " and ".join(words)
        return bounds if self.length is None else f"{self.length} numbers, each {bounds}".removesuffix(", each ")

    @property
    def expected(self) -> str:
        """What is allowed, in the words of a message that refuses another value."""
        if self.choices or self.form:
            return ", ".join([*self.choices, *([self.form.words] if self.form else [])])
        return (
            f"a number {self.range}".rstrip() if self.range.startswith(("above", "from")) else self.range or "a number"
        )

    def admits(self, value: Any) -> bool:
        """Whether a value of the key's type is allowed."""
        values = value if isinstance(value, list) else [value]
        whole = self.length is None or len(values) == self.length
        return whole and all(self._admits(one) for one in values)

    def _admits(self, value: Any) -> bool:
        if self.choices or self.form:
            formed = self.form is not None and re.fullmatch(self.form.pattern, str(value)) is not None
            return str(value) in self.choices or formed
        if isinstance(value, bool | str):
            return True
        return (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )


@dataclass(frozen=True)
class SectionFacts:
    """What a section is for.

    Attributes:
        kind: the dataclass of its keys.
        meaning: a phrase, lower case, without a full stop.
        unset: what counts where keys without a default are not set, by their dotted names inside the section. The
            others of these must be set.
        named: whether it holds any number of sections of this kind, under names of the user's own.
    """

    kind: type
    meaning: str
    unset: Mapping[str, str]
    named: bool = False

    @property
    def sentence(self) -> str:
        """The meaning as a sentence, to stand by itself."""
        return f"{self.meaning[0].upper()}{self.meaning[1:]}."


def key(
    default: Any,
    meaning: str,
    *,
    choices: Mapping[Any, str] | Iterable[Any] = (),
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    length: int | None = None,
    form: Form | None = None,
    last: bool = False,
) -> Any:
    """A key of a section's dataclass.

    Args:
        default: its default; ``omegaconf.MISSING`` where the user must say.
        choices: the values that it may have, with or without their meanings.
        meaning, least, above, most, below, length, form, last: as of :class:`Facts`.
    """
    named = choices if isinstance(choices, Mapping) else dict.fromkeys(choices, "")
    texts = {str(choice): what for choice, what in named.items()}
    facts = Facts(meaning, texts, least, above, most, below, length, form, last)
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={FACTS: facts})
    return field(default=default, metadata={FACTS: facts})


def section(kind: type, meaning: str, *, unset: Mapping[str, str] | None = None, named: bool = False) -> Any:
    """A section within a section's dataclass, or within a job's; the arguments are those of :class:`SectionFacts`."""
    facts = SectionFacts(kind, meaning, unset or {}, named)
    return field(default_factory=dict if named else kind, metadata={FACTS: facts})
