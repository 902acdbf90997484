"""`rlhf-dist completion`: what the shells offer when they have run the script."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from rlhf_dist.__main__ import main
from rlhf_dist.main import JOBS

# The last word is the one to be completed; bash itself takes a=b for three words.
ASK = 'eval "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _rlhf_dist; printf \'%s\\n\' "${COMPREPLY[@]}"'

needs_zsh = pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
needs_fish = pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["completion", *words]) == 0
    return capsys.readouterr().out


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str]) -> str:
    return printed(capsys)


def offered(script: str, *words: str) -> list[str]:
    ended = subprocess.run(
        ["bash", "-c", ASK, "ask", script, "rlhf-dist", *words], capture_output=True, text=True, check=True, timeout=30
    )
    assert ended.stderr == ""
    return ended.stdout.split()


def test_the_first_word_is_a_command(script: str) -> None:
    assert {*JOBS, "plan", "export", "report", "completion"} <= set(offered(script, ""))
    assert offered(script, "pl") == ["plan"]


@pytest.mark.parametrize("command", ["ppo", "plan"])
def test_behind_a_command_its_options_and_the_keys_of_the_schema_are_offered(script: str, command: str) -> None:
    assert offered(script, command, "actor.num_w") == ["actor.num_workers="]
    assert "--config" in offered(script, command, "--c")


def test_behind_an_equals_sign_the_values_of_the_key_are_offered(script: str) -> None:
    assert "grpo" in offered(script, "ppo", "ppo.advantage", "=")
    assert offered(script, "ppo", "ppo.advantage", "=", "gr") == ["grpo"]
    assert offered(script, "ppo", "run.overwrite", "=", "t") == ["true"]


def test_names_of_files_are_left_to_the_shell(script: str) -> None:
    assert offered(script, "ppo", "--config", "conf") == []
    assert offered(script, "ppo", "data.path", "=", "da") == []


def test_a_shell_that_there_is_no_script_for_is_named_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["completion", "zsch"]) == 2
    assert "zsh" in capsys.readouterr().err


@needs_fish
def test_fish_offers_commands_options_keys_values_and_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "rlhf.fish").write_text(printed(capsys, "fish"))
    (tmp_path / "data.jsonl").touch()

    def offers(line: str) -> list[str]:
        command = ["fish", "--no-config", "-c", "source rlhf.fish; complete -C $argv", line]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=30)
        assert ended.stderr == ""
        return ended.stdout.split()

    assert offers("rlhf-dist pl") == ["plan"]
    assert offers("rlhf-dist ppo actor.num_w") == ["actor.num_workers="]
    assert offers("rlhf-dist plan --c") == ["--config"]
    assert {"ppo.advantage=grpo", "ppo.advantage=gae"} <= set(offers("rlhf-dist ppo ppo.advantage="))
    assert offers("rlhf-dist ppo run.overwrite=t") == ["run.overwrite=true"]
    assert offers("rlhf-dist ppo data.path=da") == ["data.path=data.jsonl"]
    assert offers("rlhf-dist ppo --config da") == ["data.jsonl"]


@needs_zsh
def test_zsh_completes_commands_options_keys_values_and_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """In a shell on a terminal of its own, with the tab key."""
    (tmp_path / "rlhf.zsh").write_text(printed(capsys, "zsh"))
    (tmp_path / "data.jsonl").touch()
    terminal, inside = pty.openpty()
    environment = os.environ | {"TERM": "dumb", "ZDOTDIR": str(tmp_path)}
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"], cwd=tmp_path, stdin=inside, stdout=inside, stderr=inside, env=environment, close_fds=True
    )
    os.close(inside)
    try:
        ask(
            terminal,
            "autoload -Uz compinit; compinit -u -D; source ./rlhf.zsh; bindkey '^I' complete-word; print A''Z",
            "AZ",
        )
        for line, whole in {
            "rlhf-dist pl": "rlhf-dist plan",
            "rlhf-dist ppo actor.num_w": "rlhf-dist ppo actor.num_workers=",
            "rlhf-dist plan --conf": "rlhf-dist plan --config",
            "rlhf-dist ppo run.overwrite=t": "rlhf-dist ppo run.overwrite=true",
            "rlhf-dist ppo data.path=da": "rlhf-dist ppo data.path=data.jsonl",
            "rlhf-dist ppo --config da": "rlhf-dist ppo --config data.jsonl",
        }.items():
            # Tab, then to the start of the line, to have it printed as it is.
            ask(terminal, f"{line}\t\x01print -r -- 'G'OT ", f"GOT {whole}")
    finally:
        shell.kill()
        shell.wait()
        os.close(terminal)


def ask(terminal: int, typed: str, answer: str) -> None:
    """Types a line, and reads until a line is ``answer``."""
    os.write(terminal, typed.encode() + b"\n")
    said, deadline = "", time.monotonic() + 30
    while not re.search(rf"^{re.escape(answer)} ?\r?$", said, re.MULTILINE):
        left = deadline - time.monotonic()
        assert left > 0 and select.select([terminal], [], [], left)[0], f"no {answer!r} in {said!r}"
        said += os.read(terminal, 65536).decode(errors="replace")
