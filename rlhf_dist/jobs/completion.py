"""`rlhf-dist completion`: the commands, options and configuration keys, as a script for bash, zsh or fish."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rlhf_dist.config.keys import Key, schema_keys

_BASH = """\
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

_ZSH = """\
# Completion of rlhf-dist in zsh: source <(rlhf-dist completion zsh)
(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit; }}
_rlhf_dist() {{
    local current=$words[CURRENT] previous=$words[CURRENT-1]
    local -a found
    if (( CURRENT == 2 )); then
        found=({commands})
    elif [[ $current == *=* && $current != -* ]]; then
        case ${{current%%=*}} in
{values}
        esac
        compset -P '*='
    elif [[ $previous != -* || $current == -* ]]; then
        case $words[2] in
{words}
        esac
    fi
    local -i none=1
    compadd -S '' -- ${{(M)found:#*=}} && none=0
    compadd -- ${{found:#*=}} && none=0
    (( none )) && _files
}}
compdef _rlhf_dist rlhf-dist"""

_FISH = """\
# Completion of rlhf-dist in fish: rlhf-dist completion fish | source
function __rlhf_dist_words
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l key (string split -m 1 = -- $current)[1]
    if test (count $words) -eq 1
        printf '%s\\n' {commands}
    else if string match -q -- '*=*' $current
        switch $key
{values}
        end
    else if not string match -q -- '-*' $words[-1]; or string match -q -- '-*' $current
        switch $words[2]
{words}
        end
    end
end
function __rlhf_dist_no_files  # before a command, and where a key's values are known
    test (count (commandline -opc)) -eq 1; and return
    string match -q -- '*=*' (commandline -ct); and count (__rlhf_dist_words) > /dev/null
end
complete -c rlhf-dist -a '(__rlhf_dist_words)'
complete -c rlhf-dist -n __rlhf_dist_no_files -f"""


@dataclass(frozen=True)
class _Shell:
    """How a shell is told the words.

    Attributes:
        script: with the fields `commands`, `words` (of each command) and `values` (of each key).
        listed: words as they stand in the script.
        case: the lines of one case: of what, and the words of it.
    """

    script: str
    listed: Callable[[Sequence[str]], str]
    case: Callable[[str, Sequence[str]], str]


def _several(words: Sequence[str]) -> str:
    return " ".join(map(shlex.quote, words))


_SHELLS = {
    "bash": _Shell(
        _BASH,
        lambda words: shlex.quote(" ".join(words)),
        lambda name, words: f"            {name}) words={shlex.quote(' '.join(words))} ;;",
    ),
    "zsh": _Shell(_ZSH, _several, lambda name, words: f"            {name}) found=({_several(words)}) ;;"),
    "fish": _Shell(
        _FISH,
        _several,
        lambda name, words: f"            case {name}\n                printf '%s\\n' {_several(words)}",
    ),
}
#: The shells that there is a script for.
SHELLS = tuple(_SHELLS)


def completion_script(
    parsers: Mapping[str, argparse.ArgumentParser], schemas: Mapping[str, type], shell: str = "bash"
) -> str:
    """The script, to be sourced. Where it knows no word, the shell completes names of files.

    Args:
        parsers: of each command, for its options.
        schemas: the configuration class of each command that takes `key=value`.
        shell: one of :data:`SHELLS`.
    """
    form = _SHELLS[shell]
    keys = {name: schema_keys(schema) for name, schema in schemas.items()}
    words = {name: [*_options(parser), *(f"{key}=" for key in keys.get(name, ()))] for name, parser in parsers.items()}
    values = {key.name: _values(key) for job in keys.values() for key in job.values()}
    if shell == "fish":  # which completes whole words
        values = {name: [f"{name}={value}" for value in found] for name, found in values.items()}
    return form.script.format(
        commands=form.listed(list(parsers)),
        words="\n".join(form.case(name, found) for name, found in words.items() if found),
        values="\n".join(form.case(name, found) for name, found in values.items() if found),
    )


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [text for action in parser._actions for text in action.option_strings if text.startswith("--")]


def _values(key: Key) -> list[str]:
    return ["true", "false"] if key.base is bool else list(key.facts.choices)
