"""The recipes that README names fit the hardware that it names, by the planner, with the real models' shapes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlhf_dist.config.roles import declared_roles
from rlhf_dist.config.schema import PPOConfig
from rlhf_dist.device import CUDA
from rlhf_dist.plan.check import make_plan
from rlhf_dist.plan.job import load_job
from rlhf_dist.plan.loads import GIB, Hardware
from tests.shapes import MODELS

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"\| `(configs/\S+)` \|.*\| `--nodes (\d+) --devices-per-node (\d+) --device-memory (\d+)` \|")
TABLE = [(name, *map(int, numbers)) for name, *numbers in ROW.findall((ROOT / "README.md").read_text())]
SPARE = 0.95  # of a device may be planned: what no plan knows takes the rest


REWARD_MODELS = {
    "runs/reward_llama_8b/model": "meta-llama/Llama-3.1-8B-Instruct",
    "runs/reward_llama_1b/model": "meta-llama/Llama-3.2-1B-Instruct",
}


@pytest.fixture(scope="module")
def folders(architectures: dict[str, str]) -> dict[str, str]:
    """The folder of every model that a recipe names."""
    return architectures | {name: architectures[like] for name, like in REWARD_MODELS.items()}


def planned(recipe: str, folders: dict[str, str]) -> PPOConfig:
    """A recipe, whose models are those of ``folders``."""
    config = load_job([], ROOT / recipe)
    assert isinstance(config, PPOConfig)
    for role in declared_roles(config):
        if role.model.path in folders:
            role.model.path = folders[role.model.path]
    return config


def test_the_table_names_what_this_file_plans() -> None:
    named = {name for name, *_ in TABLE}
    assert len(TABLE) == len(named) == 8
    assert named >= {f"configs/{path.name}" for path in (ROOT / "configs").glob("ppo_*.yaml")} - {
        "configs/ppo_llama.yaml"
    }


@pytest.mark.parametrize("recipe,nodes,per_node,gib", TABLE, ids=[name for name, *_ in TABLE])
def test_a_recipe_fits_the_hardware_it_is_written_for(
    recipe: str, nodes: int, per_node: int, gib: int, folders: dict[str, str]
) -> None:
    config = planned(recipe, folders)
    plan = make_plan(config, CUDA, Hardware(nodes, per_node, gib * GIB))
    assert not plan.problems
    assert not [remark for remark in plan.remarks if "not used" in remark]
    for load in plan.loads:
        assert load.total <= SPARE * gib * GIB, f"{load.pool.name}: {load.total / GIB:.1f} GiB"
    assert plan.concurrent is not None
    assert plan.concurrent >= 16  # engines that run a few sequences at a time would waste what they have


@pytest.mark.parametrize("name", MODELS)
def test_the_shapes_are_the_real_ones(name: str, folders: dict[str, str]) -> None:
    import torch

    from rlhf_dist.config.schema import ModelConfig
    from rlhf_dist.plan.facts import policy_facts

    assert policy_facts(ModelConfig(path=folders[name]), torch.bfloat16).parameters == MODELS[name][1]


def test_a_recipe_on_smaller_devices_does_not_fit(folders: dict[str, str]) -> None:
    """The check can fail: 8B on one node of 40 GB, and 70B on half of its nodes."""
    small = make_plan(planned("configs/ppo_llama_8b_node.yaml", folders), CUDA, Hardware(1, 8, 40 * GIB), fixes=False)
    assert any("actor" in problem.what for problem in small.problems)
    few = make_plan(planned("configs/ppo_llama_70b.yaml", folders), CUDA, Hardware(4, 8, 80 * GIB), fixes=False)
    assert any("64 devices are needed, 32 exist" in problem.what for problem in few.problems)
