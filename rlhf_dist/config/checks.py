"""What each key by itself may be, as the schema says it. Every failure is a UserError of one line."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rlhf_dist.config.did_you_mean import suggest
from rlhf_dist.config.keys import is_missing, keys_of, value_of, value_text
from rlhf_dist.config.secrets import shown
from rlhf_dist.errors import UserError

_NOWHERE: Mapping[str, str] = MappingProxyType({})


def check_values(config: object, where: Mapping[str, str] = _NOWHERE) -> None:
    """Passes where every key has one of the values that the schema allows; what has no value is not looked at.

    Args:
        config: of a job.
        where: what stands in front of a message about a key, by its dotted name: the file and line of its value.

    Raises:
        UserError: the first key that has another value.
    """
    for name, key in keys_of(config).items():
        value = value_of(config, name)
        if value is None or is_missing(value) or key.facts.admits(value):
            continue
        hint = suggest(str(value), key.facts.choices)
        text = value_text(shown(name, value))
        raise UserError(f"{where.get(name, '')}{name}={text}: expected {key.facts.expected}{hint}")
