"""The files of configs/: the base files show every key with its default, and all recipes load and can run."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import yaml

from rlhf_dist.config.files import read_recipe
from rlhf_dist.config.keys import schema_keys
from rlhf_dist.config.load import load_config
from rlhf_dist.config.resolve import resolve_dpo, resolve_ppo
from rlhf_dist.config.schema import DPOConfig, PPOConfig, RewardModelConfig, SFTConfig
from rlhf_dist.config.validate import validate_dpo, validate_ppo, validate_reward, validate_sft

CONFIGS = Path(__file__).parent.parent.parent / "configs"
KINDS = {"ppo": PPOConfig, "sft": SFTConfig, "reward": RewardModelConfig, "smollm2": PPOConfig, "dpo": DPOConfig}
RECIPES = sorted(CONFIGS.rglob("*.yaml"))
# What a base file may say otherwise: the lengths fit the small model whose path stands beside them.
EXAMPLES = {
    "ppo": {"rollout.max_prompt_tokens", "rollout.max_response_tokens", "reward.model.path"},
    "sft": {"data.max_tokens"},
    "reward": {"data.max_tokens"},
    "dpo": {"data.max_tokens"},
}


def kind_of(recipe: Path) -> type:
    return KINDS[recipe.stem.partition("_")[0]]


@pytest.mark.parametrize("name", ["ppo", "sft", "reward", "dpo"])
def test_a_base_file_has_every_key_of_the_schema_and_no_other(name: str) -> None:
    shown = [setting.key for setting in read_recipe(CONFIGS / f"{name}_llama.yaml")]
    assert sorted(shown) == sorted(schema_keys(KINDS[name]))


@pytest.mark.parametrize("name", ["ppo", "sft", "reward", "dpo"])
def test_a_base_file_shows_the_schemas_defaults(name: str) -> None:
    path = CONFIGS / f"{name}_llama.yaml"
    config = load_config(KINDS[name], ["--config", str(path)], path)
    for key in schema_keys(KINDS[name]).values():
        if key.required or key.name in EXAMPLES[name]:
            continue
        value: object = config
        for part in key.name.split("."):
            value = getattr(value, part)
        assert value == key.default, key.name


@pytest.mark.parametrize("name", ["ppo", "sft", "reward", "dpo"])
def test_every_key_of_a_base_file_has_a_comment(name: str) -> None:
    lines = (CONFIGS / f"{name}_llama.yaml").read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if line and not line.lstrip().startswith("#"):
            assert "  # " in line or before.lstrip().startswith("# "), line


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_a_recipe_loads_and_can_run(recipe: Path) -> None:
    kind = kind_of(recipe)
    config = load_config(kind, ["--config", str(recipe)], recipe)
    if isinstance(config, PPOConfig):
        validate_ppo(resolve_ppo(config), check_paths=False)
    elif isinstance(config, SFTConfig):
        validate_sft(config, check_paths=False)
    elif isinstance(config, DPOConfig):
        validate_dpo(resolve_dpo(config), check_paths=False)
    else:
        assert isinstance(config, RewardModelConfig)
        validate_reward(config, check_paths=False)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_a_recipe_has_a_run_name_of_its_own(recipe: Path) -> None:
    names = [setting.value for setting in read_recipe(recipe) if setting.key == "run.name"]
    own = yaml.safe_load(recipe.read_text())["run"]["name"]
    assert own == names[-1]
    assert names.count(own) == 1


@pytest.mark.parametrize("recipe", sorted((CONFIGS / "instructgpt").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_value_of_the_papers_recipes_names_its_section_or_that_the_paper_says_nothing(recipe: Path) -> None:
    source = re.compile(r"(C|E)(\.\d+)?\b|3\.\d\b|Table \d+\b|not in the paper\b")
    own = {"base", "name", "path", "demonstrations_path"}  # a file of the user's and a run's name need no section
    values = 0
    for line in recipe.read_text().splitlines():
        setting, _, comment = line.partition("  # ")
        key, _, value = setting.strip().partition(": ")
        if value and key not in own and not line.startswith("#"):
            values += 1
            assert source.match(comment), line
    assert values
