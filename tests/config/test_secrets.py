"""What is secret in a configuration is neither stored nor shown, and a stored configuration runs again with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_dist.config.load import config_yaml, load_config
from rlhf_dist.config.resolve import resolve_ppo
from rlhf_dist.config.schema import PPOConfig
from rlhf_dist.config.secrets import environment, masked_url
from rlhf_dist.config.validate import validate_ppo
from rlhf_dist.errors import UserError

SECRET = "hunter2"
RECIPE = "run: {name: r}\ndata: {path: d.jsonl}\nactor: {model: {path: w}}\n"


def load(folder: Path, *words: str) -> PPOConfig:
    recipe = folder / "recipe.yaml"
    if not recipe.exists():
        recipe.write_text(RECIPE)
    return resolve_ppo(load_config(PPOConfig, words, recipe))


def refusal(folder: Path, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        validate_ppo(load(folder, *words), check_paths=False)
    return str(caught.value)


def test_a_name_alone_takes_its_value_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.delenv("NOT_SET", raising=False)
    assert environment(["HF_TOKEN", "B=x=y", "EMPTY=", "HF_TOKEN"]) == {"HF_TOKEN": SECRET, "B": "x=y", "EMPTY": ""}
    with pytest.raises(UserError, match=r"^cluster\.env=\[NOT_SET\]: that environment variable is not set$"):
        environment(["NOT_SET"])


def test_a_variable_is_looked_for_where_the_run_is_launched_and_not_where_it_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    config = load(tmp_path, "cluster.env=[NOT_SET]", "reward.model.path=w")
    validate_ppo(config, check_paths=False)
    with pytest.raises(UserError, match=r"^cluster\.env=\[NOT_SET\]: that environment variable is not set$"):
        validate_ppo(config)


def test_what_is_stored_holds_no_secret_and_does_not_depend_on_one(tmp_path: Path) -> None:
    """So it can be compared: neither the value nor the way in which it was given counts as a change."""
    first = [f"cluster.env=[TOKEN={SECRET}, NCCL_DEBUG=INFO, HF_TOKEN]"]
    first += [f"reward.endpoint=https://r.example:8443/score?key={SECRET}#{SECRET}"]
    first += [f"rewards.safe.endpoint=http://me:{SECRET}@127.0.0.1:9/x"]
    stored = config_yaml(load(tmp_path, *first))
    assert SECRET not in stored
    for kept in ("- TOKEN\n", "- NCCL_DEBUG\n", "- HF_TOKEN\n", "https://r.example:8443/score", "***@127.0.0.1:9/x"):
        assert kept in stored
    second = [word.replace(SECRET, "correct horse").replace("TOKEN=correct horse", "TOKEN") for word in first]
    assert config_yaml(load(tmp_path, *second)) == stored


def test_a_stored_configuration_runs_again_for_whoever_has_the_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "config.yaml"
    url = f"https://r.example/score?key={SECRET}"
    saved.write_text(config_yaml(load(tmp_path, f"cluster.env=[TOKEN={SECRET}]", f"reward.endpoint={url}")))
    again = load(tmp_path, "--config", str(saved))
    monkeypatch.setenv("TOKEN", SECRET)
    assert environment(again.cluster.env) == {"TOKEN": SECRET}
    said = refusal(tmp_path, "--config", str(saved))
    assert said.startswith("reward.endpoint=https://r.example/score?***: what stood at *** is not stored with a run")
    validate_ppo(load(tmp_path, "--config", str(saved), f"reward.endpoint={url}"), check_paths=False)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("https://a.example/b", "https://a.example/b"),
        ("https://u:hunter2@a.example:1/b?c=hunter2#hunter2", "https://***@a.example:1/b?***#***"),
        ("https://hunter2@[::1]:1/b", "https://***@[::1]:1/b"),
        ("u:hunter2@a.example/b", "***"),
        ("http://[hunter2", "***"),
    ],
)
def test_a_url_without_its_secrets(url: str, masked: str) -> None:
    assert masked_url(url) == masked


@pytest.mark.parametrize(
    "word",
    [
        f"cluster.env=TOKEN={SECRET}",
        f"cluster.env=[TOKEN={SECRET}",
        f"cluster.env=[1TOKEN={SECRET}]",
        f"cluster.env=[TOKEN=${{{SECRET}}}]",
        f"cluster.env={{TOKEN: {SECRET}}}",
        f"cluster.envs=[TOKEN={SECRET}]",
        f"--cluster.env=[TOKEN={SECRET}]",
        f"cluster=[TOKEN={SECRET}]",
        f"reward.endpoint=ftp://me:{SECRET}@x/?{SECRET}",
        f"reward.endpoint=http://me:{SECRET}@x/?{SECRET}",
        f"reward.endpoint=me:{SECRET}@x",
        f"reward.endpoint=http://me:p/{SECRET}@x/",
        f"reward.endpoint=http://x:{SECRET}/",
        f"reward.endpoint=http://[{SECRET}",
        f"--reward.endpoint=http://x/?{SECRET}",
        f"rewards.Bad.endpoint=http://x/?{SECRET}",
    ],
)
def test_no_mistake_shows_a_secret(tmp_path: Path, word: str) -> None:
    said = refusal(tmp_path, word, *([] if "reward.endpoint" in word else ["reward.model.path=w"]))
    assert SECRET not in said and "\n" not in said
    assert word.partition("=")[0].lstrip("-").split(".")[0] in said


def test_two_scorers_are_named_without_their_secrets(tmp_path: Path) -> None:
    said = refusal(tmp_path, f"reward.endpoint=http://x/?{SECRET}", "reward.model.path=w")
    assert said.startswith("reward.endpoint=http://x/?*** and reward.model.path=w are both given")


@pytest.mark.parametrize("line", ["cluster: {env: TOKEN=%s}", "cluster: {env: [1=%s]}", "reward: {endpoint: 'x:%s@y'}"])
def test_no_mistake_in_a_recipe_shows_a_secret(tmp_path: Path, line: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE + line % SECRET)
    said: Any = refusal(tmp_path)
    assert SECRET not in said and said
