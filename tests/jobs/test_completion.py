"""`rlhf-dist completion`: what bash offers when it runs the script."""

from __future__ import annotations

import subprocess

import pytest

from rlhf_dist.__main__ import main
from rlhf_dist.main import JOBS

# The last word is the one to be completed; bash itself takes a=b for three words.
ASK = 'eval "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _rlhf_dist; printf \'%s\\n\' "${COMPREPLY[@]}"'


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion"]) == 0
    return capsys.readouterr().out


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
