"""The files of docs/examples that the how-to pages show do what the pages say."""

from __future__ import annotations

import ast
import http.client
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rlhf_dist.algo.advantages import Episodes
from rlhf_dist.data.functions import load_function
from rlhf_dist.engine.function_reward import FunctionScorer
from rlhf_dist.engine.http_reward import HTTPScorer
from rlhf_dist.engine.text_reward import check_scores
from rlhf_dist.plan.job import load_job

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs/examples"


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages' commands run in its root."""
    monkeypatch.chdir(ROOT)


def test_the_reward_functions_score_as_their_docstrings_say() -> None:
    responses = ["one two three", "ten words of text that are worth nothing at all", "It ends. "]
    brief = FunctionScorer("docs/examples/rewards.py:brief", timeout_s=10)
    assert check_scores(brief, ["p"] * 3, responses) == pytest.approx([0.7, 0.0, 0.8])
    sentence = FunctionScorer("docs/examples/rewards.py:ends_a_sentence", timeout_s=10)
    assert check_scores(sentence, ["p"] * 3, responses) == [0.0, 0.0, 1.0]


def test_the_tiny_recipe_is_a_job_that_could_start() -> None:
    load_job([], Path("docs/examples/tiny_ppo.yaml"))


@pytest.fixture
def server() -> Iterator[str]:
    """The address of docs/examples/reward_server.py, on a free port."""
    command = [sys.executable, str(EXAMPLES / "reward_server.py"), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


def test_the_reward_server_answers_as_an_endpoint_and_to_curl(server: str) -> None:
    scorer = HTTPScorer(server, timeout_s=10, retries=0, token=None)
    assert check_scores(scorer, ["A film", "b"], [" about a train", "b b c"]) == [2.0, 1.0]
    connection = http.client.HTTPConnection(server.removeprefix("http://"), timeout=10)
    connection.request("POST", "/", json.dumps({"prompts": ["A film"], "responses": [" about a train"]}))
    assert connection.getresponse().read() == b'{"scores": [2.0]}'


@pytest.mark.parametrize("seed", range(5))
def test_group_ranks_counts_whom_a_response_beats_one_pair_at_a_time(seed: int) -> None:
    rng = random.Random(seed)
    groups = [number for number in range(4) for _ in range(rng.randint(1, 5))]
    lengths = [rng.randint(1, 4) for _ in groups]
    rewards = [[float(rng.randint(-2, 2)) for _ in range(length)] for length in lengths]
    wanted = []
    for i, mine in enumerate(groups):
        others = [j for j, other in enumerate(groups) if other == mine and j != i]
        beaten = sum(sum(rewards[i]) > sum(rewards[j]) for j in others)
        beaten_by = sum(sum(rewards[i]) < sum(rewards[j]) for j in others)
        wanted += [(beaten - beaten_by) / max(len(others), 1)] * lengths[i]
    flat = torch.tensor([reward for row in rewards for reward in row])
    given = Episodes(flat, torch.tensor(lengths), flat > -9, torch.tensor(groups), None, 1.0, 1.0)
    advantages, returns = load_function("docs/examples/estimators.py:group_ranks")(given)
    torch.testing.assert_close(advantages, torch.tensor(wanted))
    assert returns is None


@pytest.mark.parametrize(("page", "file"), [("own_reward.md", "rewards.py"), ("own_estimator.md", "estimators.py")])
def test_the_code_that_a_page_shows_is_that_of_the_file(page: str, file: str) -> None:
    shown = re.findall(r"```python\n(.*?)```", (ROOT / "docs/howto" / page).read_text(), re.DOTALL)[0]
    assert functions_of(shown).items() <= functions_of((EXAMPLES / file).read_text()).items()


def functions_of(text: str) -> dict[str, str]:
    """The functions of a file, without their docstrings and comments."""
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            node.body = node.body[1:] if ast.get_docstring(node) else node.body
            found[node.name] = ast.unparse(node)
    assert found
    return found


def test_the_trace_of_a_step_is_summed_and_drawn_as_the_page_shows_it(tmp_path: Path) -> None:
    command = [sys.executable, "docs/examples/trace_step.py", "docs/examples/trace.json", str(tmp_path / "step.svg")]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert printed in (ROOT / "docs/howto/reading_a_trace.md").read_text()
    drawn = (tmp_path / "step.svg").read_text()
    assert all(name in drawn for name in ("rollout-1", "reward-0", "seconds of the step"))
