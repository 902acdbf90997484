"""Several sources of reward: the section whose parts the user names."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import MISSING

from rlhf_dist.config.algorithms import ADVANTAGE_ESTIMATORS, AdvantageEstimator
from rlhf_dist.config.load import config_yaml, load_config
from rlhf_dist.config.resolve import resolve_ppo
from rlhf_dist.config.schema import PPOConfig
from rlhf_dist.config.validate import validate_ppo
from rlhf_dist.errors import UserError

NEEDED = ["run.name=r", "data.path=d.jsonl", "actor.model.path=m", "reward.model.path=w"]


def load(tmp_path: Path, *settings: str, recipe: str = "{}\n") -> PPOConfig:
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe)
    config = resolve_ppo(load_config(PPOConfig, [*NEEDED, *settings], file))
    validate_ppo(config, check_paths=False)
    return config


def refusal(tmp_path: Path, *settings: str, recipe: str = "{}\n") -> str:
    with pytest.raises(UserError) as caught:
        load(tmp_path, *settings, recipe=recipe)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sources_come_from_the_recipe_and_from_the_command_line(tmp_path: Path) -> None:
    recipe = "rewards:\n  polite:\n    function: a.b:f\n    weight: 0.5\n"
    config = load(tmp_path, "rewards.safe.model.path=s", "rewards.polite.weight=0.25", recipe=recipe)
    assert list(config.rewards) == ["polite", "safe"]
    assert (config.rewards["polite"].function, config.rewards["polite"].weight) == ("a.b:f", 0.25)
    assert config.rewards["polite"].model.path == MISSING
    assert config.rewards["safe"].model.path == "s"
    assert config.rewards["safe"].micro_batch_tokens == config.reward.micro_batch_tokens


def test_the_configuration_of_a_run_reads_back_as_it_was(tmp_path: Path) -> None:
    config = load(tmp_path, "rewards.polite.function=a.b:f", "reward.kind=process", "reward.step_separator= \n")
    file = tmp_path / "again.yaml"
    file.write_text(config_yaml(config))
    assert load_config(PPOConfig, ["--config", str(file)], file) == config


@pytest.mark.parametrize(
    "setting,said",
    [
        ("rewards.polite.wieght=1", "unknown key rewards.polite.wieght (did you mean rewards.polite.weight"),
        ("rewards.polite.weight=much", "rewards.polite.weight=much: expected a number"),
        ("rewards.polite=3", "rewards.polite"),
        ("rewards.polite.weight=2", "rewards.polite: nothing scores: set rewards.polite.model.path, "),
        ("rewards.Polite.function=a:b", "rewards.Polite: the name must be of lower-case letters"),
        ("rewards.total.function=a:b", "rewards.total: the name must be"),
        ("rewards.polite.endpoint=ftp://x/y", "rewards.polite.endpoint=ftp://x/y: expected an http or https URL"),
        ("rewards.polite.endpoint=https://me:word@x/", "a name or password in the URL would be shown"),
        ("reward.endpoint=http://x/", "reward.endpoint=http://x/ and reward.model.path=w are both given"),
        ("rewards.safe.kind=proces", "rewards.safe.kind=proces: expected outcome, process (did you mean process?)"),
        ("reward.step_separator=\\n", "reward.step_separator holds a backslash and an n, where a line break is meant"),
    ],
)
def test_a_mistake_in_a_source_is_one_line_with_its_key(tmp_path: Path, setting: str, said: str) -> None:
    assert said in refusal(tmp_path, setting)


def test_a_token_must_be_there_and_does_not_go_over_the_network_unencrypted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["rewards.far.endpoint=http://far.example/score", "rewards.far.endpoint_token_env=REWARD_TOKEN"]
    monkeypatch.delenv("REWARD_TOKEN", raising=False)
    assert "REWARD_TOKEN: that environment variable is not set" in refusal(tmp_path, *settings)
    monkeypatch.setenv("REWARD_TOKEN", "s3cret")
    said = refusal(tmp_path, *settings)
    assert "far.example unencrypted: use https" in said
    assert "s3cret" not in said
    load(tmp_path, "rewards.far.endpoint=https://far.example/score", settings[1])
    load(tmp_path, "rewards.near.endpoint=http://127.0.0.1:9/", "rewards.near.endpoint_token_env=REWARD_TOKEN")


@pytest.mark.parametrize("token", ["s3cret\nX-Other: 1", "s3cret\rmore", "s3cret more", "s3cr\x07et", "s3crét"])
def test_a_token_that_no_header_can_carry_is_refused_without_being_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    settings = ["rewards.far.endpoint=https://far.example/score", "rewards.far.endpoint_token_env=REWARD_TOKEN"]
    monkeypatch.setenv("REWARD_TOKEN", token)
    said = refusal(tmp_path, *settings)
    assert said.startswith("rewards.far.endpoint_token_env=REWARD_TOKEN: that environment variable holds a character")
    assert "s3cr" not in said and "\n" not in said
    monkeypatch.setenv("REWARD_TOKEN", " s3cret\n")  # as `$(cat file)` does not leave it, and a mounted secret does
    load(tmp_path, *settings)


@pytest.mark.parametrize("given", ["function=a.b:f", "endpoint=https://x/"])
def test_only_a_model_scores_steps(tmp_path: Path, given: str) -> None:
    said = refusal(tmp_path, "rewards.far.kind=process", f"rewards.far.{given}")
    key = given.partition("=")[0]
    assert said == (
        f"rewards.far.kind=process: a model scores steps, and rewards.far.{key} whole responses: "
        "set rewards.far.kind to outcome"
    )


def test_a_separator_is_a_text_of_any_kind_but_an_empty_one(tmp_path: Path) -> None:
    assert load(tmp_path).reward.step_separator == "\n\n"
    recipe = 'reward: {kind: process, step_separator: "\\n"}\n'
    assert load(tmp_path, recipe=recipe).reward.step_separator == "\n"
    assert load(tmp_path, "reward.step_separator= ", "reward.kind=process").reward.step_separator == " "
    said = refusal(tmp_path, recipe='reward: {step_separator: ""}\n')
    assert said == "reward.step_separator is empty: expected the text that ends a step"


@pytest.mark.parametrize(("name", "facts"), ADVANTAGE_ESTIMATORS.items())
def test_steps_are_scored_only_for_an_estimator_that_keeps_their_scores_apart(
    tmp_path: Path, name: str, facts: AdvantageEstimator
) -> None:
    settings = [f"ppo.advantage={name}", "rollout.samples_per_prompt=2"]
    load(tmp_path, *settings)
    settings += ["rewards.steps.model.path=s", "rewards.steps.kind=process"]
    if not facts.sums_rewards:
        load(tmp_path, *settings)
        return
    said = refusal(tmp_path, *settings)
    assert said.startswith(f"ppo.advantage={name} gives all tokens of a response the same advantage")
    assert "(rewards.steps.kind=process) would be lost: set it to gae, reinforce++ or a function" in said
