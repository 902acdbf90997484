"""`rlhf-dist completion`: the commands, options and configuration keys, as a script for bash."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Mapping

from rlhf_dist.config.keys import Key, schema_keys

_SCRIPT = """\
# Completion of rlhf-dist in bash: source <(rlhf-dist completion)
_rlhf_dist() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} key words=
    [ "$current" = "=" ] && current= && previous="="
    if [ "$previous" = "=" ]; then  # bash takes key=value for three words
        key=${{COMP_WORDS[COMP_CWORD-1]}}
        [ "$key" = "=" ] && key=${{COMP_WORDS[COMP_CWORD-2]}}
        case "$key" in
{values}
        esac
    elif [ "$COMP_CWORD" -eq 1 ]; then
        words={commands}
    elif [[ "$previous" != -* || "$current" == -* ]]; then
        case "${{COMP_WORDS[1]}}" in
{words}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    [[ "${{COMPREPLY[0]}}" == *= ]] && compopt -o nospace 2> /dev/null
}}
complete -o default -F _rlhf_dist rlhf-dist"""


def completion_script(parsers: Mapping[str, argparse.ArgumentParser], schemas: Mapping[str, type]) -> str:
    """The script, to be sourced. Where it knows no word, the shell completes names of files.

    Args:
        parsers: of each command, for its options.
        schemas: the configuration class of each command that takes `key=value`.
    """
    keys = {name: schema_keys(schema) for name, schema in schemas.items()}
    words = {name: [*_options(parser), *(f"{key}=" for key in keys.get(name, ()))] for name, parser in parsers.items()}
    values = {key.name: _values(key) for job in keys.values() for key in job.values()}
    return _SCRIPT.format(
        commands=_quoted(parsers),
        words="\n".join(f"            {name}) words={_quoted(found)} ;;" for name, found in words.items()),
        values="\n".join(f"            {name}) words={_quoted(found)} ;;" for name, found in values.items() if found),
    )


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [text for action in parser._actions for text in action.option_strings if text.startswith("--")]


def _values(key: Key) -> list[str]:
    return ["true", "false"] if key.base is bool else list(key.facts.choices)


def _quoted(words: Iterable[str]) -> str:
    return shlex.quote(" ".join(words))
