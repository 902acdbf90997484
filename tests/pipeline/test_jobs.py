"""The three jobs end to end: what they leave behind, and that the way a job is laid out does not change it."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlhf_dist.__main__ import main
from rlhf_dist.controller.checkpoints import Checkpoints
from tests.pipeline.conftest import Outcome, Workspace, learned_without_a_critic, wait_for_step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CONTRACT = {
    "step",
    "reward/score_mean",
    "reward/total_mean",
    "kl/sequence_mean",
    "loss/policy",
    "loss/value",
    "policy/clip_fraction",
    "policy/entropy",
    "value/explained_variance",
    "response/length_mean",
    "rollout/logprob_gap",
    "weights/version",
    "time/step_s",
    "time/rollout_s",
    "time/score_s",
    "time/train_s",
    "time/sync_s",
    "throughput/tokens_per_s",
}
SAME_EVERYWHERE = [
    "reward/score_mean",
    "reward/total_mean",
    "kl/sequence_mean",
    "loss/policy",
    "loss/value",
    "policy/entropy",
    "policy/grad_norm",
    "value/grad_norm",
    "response/length_mean",
    "weights/version",
]


def test_sft_lowers_the_held_out_loss_and_saves_a_model_that_transformers_loads(place: Workspace) -> None:
    run = place.root / "runs/sft"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["after"]["loss"] < summary["before"]["loss"]
    AutoModelForCausalLM.from_pretrained(run / "model")
    assert AutoTokenizer.from_pretrained(run / "model").eos_token == "<eos>"


def test_the_reward_model_is_saved_with_its_head(place: Workspace) -> None:
    run = place.root / "runs/reward"
    summary = json.loads((run / "summary.json").read_text())
    assert 0 <= summary["after"]["accuracy"] <= 1
    model = AutoModelForSequenceClassification.from_pretrained(run / "model")
    assert torch.equal(model.score.weight, load_file(run / "model/model.safetensors")["score.weight"])


@pytest.mark.parametrize("job", ["sft", "reward"])
def test_the_last_checkpoint_is_exported_as_the_run_saved_its_model(place: Workspace, tmp_path: Path, job: str) -> None:
    run = place.root / "runs" / job
    checkpoint = Checkpoints(run / "checkpoints").whole()[-1].path
    assert main(["export", str(checkpoint), str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        path.name for path in (run / "model").iterdir()
    )
    for path in (run / "model").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name


ON_SFT = "actor.model.path=runs/sft/model"


@pytest.fixture(scope="module")
def plain(place: Workspace) -> list[dict[str, float]]:
    """The metrics of PPO on the SFT run's model: one worker of each role, without ZeRO, on one vLLM engine."""
    outcome = place.run("ppo", "plain", ON_SFT, "run.tensorboard=true")
    for name in ("config.yaml", "samples.jsonl", "trace.json", "report.html", "summary.json", "model"):
        assert (outcome.run / name).exists(), name
    assert any((outcome.run / "tensorboard").iterdir())
    assert {"score_mean", "judge_mean", "distinct_2"} <= outcome.summary["before"].keys() & outcome.summary["after"]
    assert {"kl_sequence_mean", "wall_s", "tokens"} <= outcome.summary.keys()
    trace = json.loads((outcome.run / "trace.json").read_text())["traceEvents"]
    assert {("step", "rollout"), ("rollout-0", "generate"), ("actor-0", "train"), ("critic-0", "train")} <= {
        (event["cat"], event["name"]) for event in trace if event["ph"] == "X"
    }
    assert set(json.loads((outcome.run / "samples.jsonl").read_text().splitlines()[0])) == {
        "step",
        "prompt",
        "response",
        "score",
        "kl",
        "judge",
        "finished",
    }
    return outcome.metrics


def test_a_line_of_metrics_holds_what_the_contract_names(plain: list[dict[str, float]]) -> None:
    assert [line["step"] for line in plain] == [1, 2]
    for line in plain:
        assert line.keys() >= CONTRACT
        assert line["rollout/logprob_gap"] < 1e-4
    # The first step's KL is that of equal models, the second one's is not: the new weights reached the engine.
    assert abs(plain[0]["kl/sequence_mean"]) < 1e-3
    assert abs(plain[1]["kl/sequence_mean"]) > 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        ["actor.zero_stage=3", "critic.zero_stage=3", "actor.num_workers=2", "rollout.num_engines=2"],
        [
            "actor.zero_stage=2",
            "actor.model.gradient_checkpointing=true",
            "critic.num_workers=2",
            "reward.num_workers=2",
            "reward.zero_stage=3",
            "reference.zero_stage=3",
        ],
    ],
    ids=["zero3-two-actors-two-engines", "zero2-one-actor-two-critics-two-rewards-checkpointing"],
)
def test_the_layout_of_a_job_does_not_change_its_losses(
    place: Workspace, plain: list[dict[str, float]], settings: list[str]
) -> None:
    outcome = place.run("ppo", "layout", ON_SFT, *settings)
    for ours, theirs in zip(outcome.metrics, plain, strict=True):
        for name in SAME_EVERYWHERE:
            assert ours[name] == pytest.approx(theirs[name], rel=2e-3, abs=2e-4), name
    random = [path.read_bytes() for path in outcome.run.glob("checkpoints/step-2/*/random-*")]
    assert len(set(random)) == len(random) == 3  # each worker draws from a seed of its own


def test_a_model_that_a_run_saved_generates_in_vllm(place: Workspace, plain: list[dict[str, float]]) -> None:
    config = yaml.safe_load((place.root / "runs/plain/config.yaml").read_text())
    assert (config["rollout"]["backend"], config["actor"]["model"]["path"]) == ("vllm", "runs/sft/model")
    assert all(line["response/length_mean"] > 1 for line in plain)


@pytest.fixture(scope="module")
def few(place: Workspace) -> Outcome:
    """A step of REINFORCE++ on two prompts, with three workers and three engines."""
    return place.run(
        "ppo",
        "few",
        "rollout.backend=hf",
        "ppo.prompts_per_step=2",
        "ppo.minibatch_size=1",
        "ppo.steps=1",
        "actor.num_workers=3",
        "rollout.num_engines=3",
        "ppo.advantage=reinforce++",
        "ppo.aggregation=constant",
        "ppo.rollout_correction=mask",
        "actor.layout=left",
    )


def test_more_workers_than_sequences_and_more_engines_than_prompts_lose_nothing(few: Outcome) -> None:
    (line,) = few.metrics
    tokens = line["throughput/tokens_per_s"] * line["time/step_s"]
    assert tokens == pytest.approx(round(tokens), abs=1e-6)
    assert line["response/length_mean"] * 2 == pytest.approx(round(line["response/length_mean"] * 2))


def test_reinforce_pp_needs_no_critic(few: Outcome) -> None:
    learned_without_a_critic(few)


TWELVE_STEPS = ["rollout.backend=hf", "ppo.steps=12", "actor.zero_stage=2", "run.samples_every=1"]


@pytest.fixture(scope="module")
def whole(place: Workspace) -> list[dict[str, float]]:
    """The metrics of twelve steps without an interruption."""
    return place.run("ppo", "whole", *TWELVE_STEPS).metrics


@pytest.fixture(scope="module")
def stopped(place: Workspace) -> Outcome:
    """A run of twelve steps that got a SIGTERM after the second."""
    process = place.start("ppo", "halves", *TWELVE_STEPS)
    wait_for_step(place, "halves", process, 2)
    process.send_signal(signal.SIGTERM)
    outcome = place.finish(process, "halves", expect=130)
    assert len(outcome.metrics) < 12
    return outcome


def test_sigterm_ends_a_run_with_a_checkpoint(stopped: Outcome) -> None:
    done = int(re.findall(r"stopped after step (\d+)", stopped.output)[0])
    assert done >= 2 and (stopped.run / f"checkpoints/step-{done}").is_dir()


def test_an_interrupted_run_goes_on_as_if_nothing_had_been(
    place: Workspace, whole: list[dict[str, float]], stopped: Outcome
) -> None:
    """Stopped, gone on, killed as the system kills, and gone on again. test_stopping.py presses Ctrl-C."""
    name = stopped.run.name
    settings = [*TWELVE_STEPS, "run.overwrite=false", "run.resume=auto", "run.save_every=1"]
    process = place.start("ppo", name, *settings)
    wait_for_step(place, name, process, 6)
    process.kill()
    process.wait()
    outcome = place.run("ppo", name, *settings)
    assert [line["step"] for line in outcome.metrics] == list(range(1, 13))
    for ours, theirs in zip(outcome.metrics, whole, strict=True):
        for key in SAME_EVERYWHERE:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-3, abs=1e-5), (ours["step"], key)


def test_a_worker_that_dies_is_named_first(place: Workspace) -> None:
    process = place.start("ppo", "killed", "rollout.backend=hf", "ppo.steps=500", "actor.num_workers=2")
    wait_for_step(place, "killed", process, 1)
    _only_this_machine_can_reach(place.root / "runs/killed/logs")
    refused = place.run("ppo", "killed", expect=2)  # with run.overwrite=true, while the run is alive
    assert f"runs/killed belongs to a run that is still active (process {process.pid} on " in refused.output
    (victim,) = _worker_pids(place.root / "runs/killed/logs/critic-0.log")
    os.kill(victim, signal.SIGKILL)
    outcome = place.finish(process, "killed", expect=1)
    last = [line for line in outcome.output.splitlines() if line.startswith("error:")]
    assert last, outcome.output
    assert "critic-0 died" in last[0]


def test_a_reward_that_is_not_a_number_ends_the_run_with_the_sample(place: Workspace) -> None:
    (place.root / "broken.py").write_text("def score(prompts, responses):\n    return [float('nan')] * len(prompts)\n")
    outcome = place.run(
        "ppo",
        "nan",
        "rollout.backend=hf",
        "ppo.advantage=reinforce++",  # without a critic
        "reward.model.path=null",
        "reward.function=broken.py:score",
        expect=1,
    )
    error = next(line for line in outcome.output.splitlines() if line.startswith("error:"))
    assert "broken.py:score returned nan for prompt" in error


def test_a_judge_that_hangs_at_the_end_costs_no_work(place: Workspace) -> None:
    """A function is the reward and another one the judge; that one hangs when the steps are done, once."""
    (place.root / "length.py").write_text(
        "import time\nfrom pathlib import Path\n\n"
        "def short(prompts, responses):\n    return [-len(r) / 10 for r in responses]\n\n"
        "def long(prompts, responses):\n"
        "    if Path('runs/function/model').exists() and not Path('mended').exists():\n"
        "        time.sleep(3600)\n"
        "    return [len(p + r) for p, r in zip(prompts, responses)]\n"
    )
    settings = [
        "rollout.backend=hf",
        "reward.model.path=null",
        "reward.function=length.py:short",
        "reward.num_workers=2",
        "judge=length.py:long",
        "ppo.function_timeout_s=5",
    ]
    failed = place.run("ppo", "function", *settings, expect=1)
    said = (
        "error: judge length.py:long returned no scores for 5 responses within 5 s (ppo.function_timeout_s), the first"
    )
    assert said in failed.output and not (failed.run / "summary.json").exists()
    assert [line["step"] for line in failed.metrics] == [1, 2]
    AutoModelForCausalLM.from_pretrained(failed.run / "model")
    (place.root / "mended").touch()
    settings += ["run.overwrite=false", "run.resume=true"]
    outcome = place.run("ppo", "function", *settings)
    assert outcome.metrics == failed.metrics
    assert outcome.summary["before"]["score_mean"] < 0 < outcome.summary["before"]["judge_mean"]
    assert outcome.summary["after"]["judge_mean"] > 0
    again = place.run("ppo", "function", *settings)
    assert again.output.splitlines()[-1] == "runs/function is finished: 2 of 2 steps; nothing is left to do"
    assert again.summary == outcome.summary and "step 1" not in again.output


def test_a_cluster_too_small_is_exit_3_with_what_is_wanted_and_there(place: Workspace) -> None:
    outcome = place.run("sft", "huge", "actor.num_workers=2", "actor.cpus_per_worker=500", expect=3)
    assert "CPU wanted 1000, present" in outcome.output


def test_no_worker_outlives_its_run_however_it_ended(place: Workspace) -> None:
    pids = [pid for log in (place.root / "runs").glob("*/logs/*.log") for pid in _worker_pids(log)]
    assert len(pids) > 20
    deadline = time.monotonic() + 30
    while left := [pid for pid in pids if _is_ray_worker(pid)]:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.5)


def _only_this_machine_can_reach(logs: Path) -> None:
    """The stores and collectives of a run on a cluster of its own; Ray's own port in each process asks for a token."""
    on_loopback = 0
    for pid in [pid for log in logs.glob("*.log") for pid in _worker_pids(log)]:
        sockets = [socket for socket in psutil.Process(pid).net_connections("tcp") if socket.status == "LISTEN"]
        outside = [socket.laddr for socket in sockets if not ip_address(socket.laddr.ip).is_loopback]
        assert len(outside) <= 1, outside
        on_loopback += len(sockets) - len(outside)
    assert on_loopback >= 6  # four roles meet at stores, the actor and the engine at another, and gloo has its own


def _worker_pids(log: Path) -> list[int]:
    return [int(pid) for pid in re.findall(r"^worker \S+: pid (\d+) ", log.read_text(), re.MULTILINE)]


def _is_ray_worker(pid: int) -> bool:
    command = Path(f"/proc/{pid}/cmdline")
    return command.exists() and b"ray::" in command.read_bytes()
