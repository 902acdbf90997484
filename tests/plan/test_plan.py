"""The planner: memory by formula, batches, what cannot work and the smallest change, suggestions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlhf_dist.config.resolve import resolve_ppo
from rlhf_dist.config.schema import AdapterConfig, ModelConfig, PPOConfig, RewardSourceConfig, TrainedRoleConfig
from rlhf_dist.device import CPU, CUDA
from rlhf_dist.errors import ClusterError, UserError
from rlhf_dist.plan.batch_limits import BatchLimits
from rlhf_dist.plan.batches import ppo_batches
from rlhf_dist.plan.check import make_plan
from rlhf_dist.plan.cost import Speeds, step_seconds
from rlhf_dist.plan.facts import policy_facts, scalar_facts
from rlhf_dist.plan.footprint import concurrent_sequences, trained_footprint
from rlhf_dist.plan.job import load_job
from rlhf_dist.plan.loads import GIB, Hardware
from rlhf_dist.plan.suggest import suggest_plans

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def llama_8b(architectures: dict[str, str]) -> str:
    return architectures["meta-llama/Llama-3.1-8B-Instruct"]


@pytest.fixture
def job(llama_8b: str) -> PPOConfig:
    """PPO with four 8B models in bfloat16."""
    config = PPOConfig()
    config.run.name = "plan"
    config.data.path = "prompts.jsonl"
    config.actor.model.path = config.reward.model.path = llama_8b
    for role in (config.actor, config.critic):
        role.num_workers, role.zero_stage, role.model.gradient_checkpointing = 4, 3, True
    config.rollout.max_prompt_tokens = config.rollout.max_response_tokens = 1024
    return resolve_ppo(config)


def test_an_8b_llama_has_the_parameters_and_the_cache_that_its_makers_state(llama_8b: str) -> None:
    facts = policy_facts(ModelConfig(path=llama_8b), torch.bfloat16)
    assert facts.parameters == 8_030_261_248
    assert facts.kv_per_token * 2 == 131_072  # bytes in bfloat16: 2 x 32 layers x 8 heads x 128
    scalar = scalar_facts(ModelConfig(path=llama_8b), torch.bfloat16)
    assert scalar.parameters == 8_030_261_248 - 128256 * 4096 + 4096  # the head has one row
    adapter = policy_facts(ModelConfig(path=llama_8b), torch.bfloat16, AdapterConfig(rank=16))
    assert adapter.learning == 41_943_040  # rank 16 on all seven linear layers of a block


def test_activations_without_checkpointing_are_what_autograd_keeps(tmp_path: Path) -> None:
    """Counted on the meta device by a stand-in for attention; here against the real model on the CPU."""
    from transformers import AutoModelForCausalLM

    from tests.tiny import write_model

    write_model(tmp_path, tied=True)
    facts = policy_facts(ModelConfig(path=str(tmp_path)), torch.float32)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).train()
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    length = 64
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden = model.base_model(torch.zeros(1, length, dtype=torch.int64)).last_hidden_state
        total = sum(storage.nbytes() for key, storage in kept.items() if key not in weights)
    assert hidden.requires_grad
    assert facts.kept_per_token * length == pytest.approx(total, rel=0.15)


def test_zero_divides_what_it_says_it_divides(llama_8b: str) -> None:
    facts = policy_facts(ModelConfig(path=llama_8b), torch.bfloat16)
    whole = 8_030_261_248

    def of(stage: int, workers: int) -> tuple[int, int, int]:
        role = TrainedRoleConfig(zero_stage=stage, num_workers=workers)
        made = trained_footprint(facts, role, BatchLimits(2048), CUDA)
        return made.weights, made.gradients, made.optimizer

    assert of(0, 4) == of(1, 4) == (2 * whole, 6 * whole, 12 * whole // 4)
    assert of(2, 4) == (2 * whole, 4 * whole // 4, 12 * whole // 4)
    assert of(3, 4) == (2 * whole // 4, 4 * whole // 4, 12 * whole // 4)


def test_what_fits_fits_and_engines_run_as_many_sequences_as_their_cache_holds(job: PPOConfig) -> None:
    plan = make_plan(job, CUDA, Hardware(2, 8, 80 * GIB))
    assert not plan.problems
    cache = int(80 * GIB * 0.9) - plan.footprints["rollout"].weights - plan.footprints["rollout"].activations
    assert plan.concurrent == min(cache // (131_072 * 2048), 256)
    assert plan.transfer_bytes == 8_030_261_248 * 2


@pytest.mark.parametrize(
    ("settings", "hardware", "said", "change"),
    [
        ({}, Hardware(1, 8, 80 * GIB), "11 devices are needed, 8 exist", "placement=colocated"),
        ({"actor.num_workers": 1}, Hardware(2, 8, 80 * GIB), "actor:", "actor.num_workers=2"),
        (
            {"reference.micro_batch_tokens": 10**6},
            Hardware(2, 8, 80 * GIB),
            "reference:",
            "reference.micro_batch_tokens",
        ),
        (
            {"actor.train_engine": "torch", "actor.num_workers": 1},
            Hardware(8, 8, 80 * GIB),
            "actor:",
            "actor.num_workers=2 actor.train_engine=auto",
        ),
        (
            {"rollout.tensor_parallel": 16},
            Hardware(4, 8, 80 * GIB),
            "16 devices does not fit",
            "rollout.tensor_parallel=8",
        ),
        (
            {"rollout.memory_utilization": 0.15},
            Hardware(2, 8, 80 * GIB),
            "too small for a single sequence",
            "rollout.tensor_parallel=2",
        ),
    ],
)
def test_what_cannot_work_comes_with_the_smallest_change_that_works(
    job: PPOConfig, settings: dict[str, object], hardware: Hardware, said: str, change: str
) -> None:
    from rlhf_dist.plan.changes import set_key

    for key, value in settings.items():
        set_key(job, key, value)
    problem = next(problem for problem in make_plan(job, CUDA, hardware).problems if said in problem.what)
    assert problem.change is not None
    assert problem.change.startswith(change)
    for text in problem.change.split():
        key, _, value = text.partition("=")
        set_key(job, key, value if key == "placement" else type_of(value))
    remaining = [p.what for p in make_plan(job, CUDA, Hardware(8, hardware.devices_per_node, 80 * GIB)).problems]
    assert not [what for what in remaining if said in what]


def type_of(value: str) -> object:
    return value == "true" if value in ("true", "false") else int(value) if value.isdigit() else value


def test_batch_arithmetic_and_idle_workers(job: PPOConfig) -> None:
    job.ppo.prompts_per_step, job.rollout.samples_per_prompt, job.ppo.minibatch_size, job.ppo.epochs = 10, 3, 7, 2
    job.actor.num_workers, job.rollout.num_engines = 8, 31
    batches = ppo_batches(job)
    assert (batches.samples, batches.optimizer_steps, batches.minibatch) == (30, 10, 6)
    assert batches.idle_workers == {"actor": 2}
    assert batches.idle_engines == 1
    assert batches.micro_batches == {"actor": 1, "critic": 1}


def test_an_engines_cache_counts_whole_blocks(llama_8b: str) -> None:
    facts = policy_facts(ModelConfig(path=llama_8b), torch.bfloat16)
    rollout = PPOConfig().rollout
    rollout.max_prompt_tokens, rollout.max_response_tokens, rollout.block_size = 1, 1, 32
    assert concurrent_sequences(facts, rollout, 32 * 131_072) == 1
    assert concurrent_sequences(facts, rollout, 32 * 131_072 - 1) == 0


def test_suggestions_fit_differ_and_come_fastest_first(job: PPOConfig) -> None:
    hardware = Hardware(1, 8, 80 * GIB)
    found = suggest_plans(job, CUDA, hardware, Speeds(), 3)
    assert [suggestion.total for suggestion in found] == sorted(suggestion.total for suggestion in found)
    assert len({str(suggestion.settings) for suggestion in found}) == 3
    for suggestion in found:
        assert not suggestion.plan.problems
        assert sum(pool.devices for pool in suggestion.plan.pools) <= 8


def test_a_further_reward_model_is_planned_and_changed_under_its_own_section(job: PPOConfig) -> None:
    job.rewards["polite"] = RewardSourceConfig(strategy="strict_spread", num_workers=4)
    job.rewards["polite"].model.path = job.actor.model.path
    (problem,) = make_plan(job, CUDA, Hardware(3, 8, 80 * GIB)).problems
    assert problem.what == "reward-polite: 4 nodes are needed, 3 exist"
    assert problem.change == "rewards.polite.strategy=spread"
    job.rewards["polite"].strategy = "pack"
    found = suggest_plans(job, CUDA, Hardware(1, 8, 80 * GIB), Speeds(), 3)
    assert len(found) == 3
    for suggestion in found:
        assert {"rewards.polite.num_workers", "rewards.polite.zero_stage"} <= suggestion.settings.keys()


def test_more_devices_never_make_the_modelled_step_slower(job: PPOConfig) -> None:
    def total(workers: int) -> float:
        job.actor.num_workers = job.critic.num_workers = workers
        plan = make_plan(job, CUDA, Hardware(8, 8, 80 * GIB))
        phases = step_seconds(job, plan.pools, plan.models, plan.footprints, Speeds())
        return phases["score"] + phases["train"]

    assert total(4) > total(8) > total(16)


def test_a_plan_of_the_demo_fits_this_machine_and_one_of_all_recipes_is_of_its_kind() -> None:
    config = load_job([f"actor.model.path={ROOT / 'demo/base'}"], ROOT / "configs/demo/sft.yaml")
    assert not make_plan(config, CPU, Hardware(1, 0, CPU.memory_bytes())).problems
    kinds = {name: type(load_job([], ROOT / f"configs/{name}_llama.yaml")).__name__ for name in ("ppo", "dpo", "sft")}
    assert kinds == {"ppo": "PPOConfig", "dpo": "DPOConfig", "sft": "SFTConfig"}


def test_a_launch_of_what_does_not_fit_ends_before_anything_is_started(
    job: PPOConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlhf_dist.jobs.preflight import preflight

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    job.run.device = "cpu"
    with pytest.raises(ClusterError, match="all roles together"):
        preflight(job, CPU)


def test_the_command_prints_tables_and_ends_with_3_where_it_cannot_work(
    llama_8b: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlhf_dist.__main__ import main

    common = ["plan", "--config", str(ROOT / "configs/ppo_llama_8b.yaml"), f"actor.model.path={llama_8b}"]
    common += [f"reward.model.path={llama_8b}", "--device-memory", "80"]
    assert main([*common, "--nodes", "2", "--devices-per-node", "8"]) == 0
    assert "fits" in capsys.readouterr().out
    assert main([*common, "--nodes", "1", "--devices-per-node", "8"]) == 3
    output = capsys.readouterr()
    assert "the smallest change: placement=colocated" in output.out
    assert output.err.count("\n") == 1
    assert main([*common, "--nodes", "2", "--devices-per-node", "8", "--suggest"]) == 0
    assert "actor.num_workers=" in capsys.readouterr().out
    assert main(["plan", "--config", "nowhere.yaml"]) == 2


def test_a_model_whose_architecture_is_nowhere_is_named(job: PPOConfig, tmp_path: Path) -> None:
    job.actor.model.path = str(tmp_path)
    with pytest.raises(UserError, match=r"config\.json"):
        make_plan(job, CUDA, Hardware(1, 8, 80 * GIB))
