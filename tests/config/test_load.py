"""From the command line and recipe files to the configuration object, and what is refused on the way."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlhf_dist.config.help import help_text
from rlhf_dist.config.load import config_yaml, load_config
from rlhf_dist.config.resolve import is_given
from rlhf_dist.config.schema import PPOConfig, SFTConfig
from rlhf_dist.config.schema.define import key
from rlhf_dist.errors import UserError


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("run:\n  name: r\nactor:\n  num_workers: 2\n  optim: {lr: 1e-4}\n")
    return path


def load(recipe: Path, *words: str) -> PPOConfig:
    return load_config(PPOConfig, words, recipe)


def refusal(recipe: Path, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        load(recipe, *words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_command_line_counts_before_the_recipe_and_the_recipe_before_the_schema(recipe: Path) -> None:
    config = load(recipe, "actor.num_workers=3", "run.seed=7", "run.seed=8")
    assert config.actor.num_workers == 3
    assert config.actor.optim.lr == 1e-4
    assert config.critic.num_workers == PPOConfig().critic.num_workers
    assert config.run.seed == 8
    assert isinstance(config, PPOConfig)


def test_a_recipe_stands_on_its_base_relative_to_itself(recipe: Path) -> None:
    folder = recipe.parent / "demo"
    folder.mkdir()
    (folder / "top.yaml").write_text("base: middle.yaml\nrun: {seed: 5}\n")
    (folder / "middle.yaml").write_text("run: {seed: 4, name: m}\nbase: ../recipe.yaml\n")
    config = load(recipe, "--config", str(folder / "top.yaml"))
    assert (config.run.seed, config.run.name, config.actor.num_workers) == (5, "m", 2)


@pytest.mark.parametrize("words", [["--config", "{}"], ["--config={}"]])
def test_config_names_another_recipe(recipe: Path, words: list[str]) -> None:
    other = recipe.parent / "other.yaml"
    other.write_text("run: {name: o}\n")
    config = load(recipe, *(word.format(other) for word in words))
    assert (config.run.name, config.actor.num_workers) == ("o", 1)


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("rollout.temperature=1", "rollout.temperature", 1.0),
        ("actor.optim.lr=2e-6", "actor.optim.lr", 2e-6),
        ("actor.optim.betas=[0.8, 0.99]", "actor.optim.betas", [0.8, 0.99]),
        ("run.tensorboard=yes", "run.tensorboard", True),
        ("run.resume=yes", "run.resume", "true"),
        ("run.resume=auto", "run.resume", "auto"),
        ("run.name=007", "run.name", "007"),
        ("run.dir=a=b", "run.dir", "a=b"),
        ("judge=pkg.mod:f", "judge", "pkg.mod:f"),
        ("judge=null", "judge", None),
        ("rollout.enforce_eager=False", "rollout.enforce_eager", False),
        ("rollout.enforce_eager=null", "rollout.enforce_eager", None),
        ("actor.threads_per_worker=2", "actor.threads_per_worker", 2),
    ],
)
def test_values_take_the_type_of_the_schema(recipe: Path, word: str, key: str, value: object) -> None:
    found: object = load(recipe, word)
    for name in key.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_null_takes_a_value_away_where_the_schema_has_none(recipe: Path) -> None:
    assert is_given(load(recipe).run.name)
    assert not is_given(load(recipe, "run.name=null").run.name)
    assert not is_given(load(recipe).actor.model.path)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("actor.num_worker=2", "unknown key actor.num_worker (did you mean actor.num_workers?)"),
        ("num_engines=2", "unknown key num_engines (did you mean rollout.num_engines?)"),
        ("actor.lr=2", "unknown key actor.lr (did you mean actor.optim.lr or critic.optim.lr?)"),
        ("ppo.gama=1", "unknown key ppo.gama (did you mean ppo.gamma?)"),
        ("xyzzy=1", "unknown key xyzzy"),
        ("actor.num_workers=two", "actor.num_workers=two: expected an integer"),
        ("actor.num_workers=1.5", "actor.num_workers=1.5: expected an integer"),
        ("actor.num_workers=null", "actor.num_workers=null: expected an integer"),
        ("actor.num_workers=[1]", "actor.num_workers=[1]: expected an integer"),
        ("actor.optim.lr=fast", "actor.optim.lr=fast: expected a number"),
        ("actor.optim.betas=0.9", "actor.optim.betas=0.9: expected a list of numbers"),
        ("actor.optim.betas=[0.9, x]", "actor.optim.betas=[0.9, x]: expected a list of numbers"),
        ("run.tensorboard=2", "run.tensorboard=2: expected true or false"),
        ("actor.cpus_per_worker=x", "actor.cpus_per_worker=x: expected a number or null"),
        ("actor=2", "actor is a section, not a key"),
        ("run.seed=", "run.seed=: expected a value after the ="),
        ("run.seed={a: 1}", "run.seed={a: 1}: expected a single value or a list of them"),
        ("run.seed=[1", "run.seed=[1: cannot be read: "),
        ("run.name", "run.name: expected key=value (did you mean run.name=VALUE?)"),
        ("other.yaml", "other.yaml: expected key=value (did you mean --config other.yaml?)"),
        ("--actor.num_workers=2", "unknown option --actor.num_workers=2 (did you mean actor.num_workers=2?)"),
        ("--conf", "unknown option --conf"),
        ("--config", "--config: expected a file after it"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_with_the_key(recipe: Path, word: str, said: str) -> None:
    assert refusal(recipe, word).startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run:\n  name: r\n  sed: 1\n", ":3: unknown key run.sed (did you mean run.seed?)"),
        ("actor:\n  num_workers: two\n", ":2: actor.num_workers=two: expected an integer"),
        ("actor:\n  num_workers: {a: 1}\n", ":2: unknown key actor.num_workers.a (did you mean actor.num_workers?)"),
        ("actor: 3\n", ":1: actor is a section, not a key"),
        ("run:\n  name: [a\n  b", ":3: not valid YAML: "),
        ("run:\n  name: a\n  name: b\n", ":3: run.name stands here for the second time, the first is in line 2"),
        ("run.name: a\nrun: {name: b}\n", ":2: run.name stands here for the second time, the first is in line 1"),
        ("run:\n  name: a\nrun.name: b\n", ":3: run.name stands here for the second time, the first is in line 2"),
        ("run: {name: a}\nrun: {seed: 1}\n", ":2: run stands here for the second time, the first is in line 1"),
        ("run.seed: 1\nrun.seed: {a: 2}\n", ":2: run.seed stands here for the second time, the first is in line 1"),
        ("placement: " + "[" * 5000 + "]" * 5000, ":1: not valid YAML: it is nested too deeply"),
        ("run: " + "{run: " * 5000 + "}" * 5000, ":1: not valid YAML: it is nested too deeply"),
        ("run: " + "{run: " * 20 + "1" + "}" * 20, ":1: run.run.run.run"),
        ("run: {seed: " + "9" * 5000 + "}", ":1: run.seed=999"),
        ("run: {seed: 1000000000001}", ":1: run.seed=1000000000001: expected an integer of at most 12 digits"),
        ("actor.optim: {lr: .nan}", ":1: actor.optim.lr=.nan: expected a number"),
        ("actor.optim: {lr: nan}", ":1: actor.optim.lr=nan: expected a number of at most 12 digits"),
        ("actor.optim: {betas: [0.9, inf]}", ":1: actor.optim.betas=[0.9, inf]: expected a list of numbers of at most"),
        ('data: {path: "a\\0b"}', ":1: data.path: it holds a character that no value has: '\\x00'"),
        ('base: "a\\ud800b"', ":1: base: it holds a character that no value has: '\\ud800'"),
        ("- a\n", ":1: expected `key: value` lines"),
        ("base: [a]\n", ":1: base: expected the path of a file"),
        ("run: &r\n  dir: *r\n", ":1: "),
        ("run: {name: a}\n---\nrun: {name: b}\n", ":2: not valid YAML: "),
    ],
)
def test_a_mistake_in_a_recipe_names_file_and_line(recipe: Path, text: str, said: str) -> None:
    recipe.write_text(text)
    assert refusal(recipe).startswith(f"{recipe}{said}")


def bomb(levels: int, opens: str, closes: str) -> str:
    """A few lines of aliases that stand for 10^levels values."""
    inner = f"bomb0: &b0 {opens}x{closes}\n"
    for level in range(1, levels):
        inner += f"bomb{level}: &b{level} [{', '.join([f'*b{level - 1}'] * 10)}]\n"
    return inner


@pytest.mark.parametrize(
    "text",
    [
        bomb(10, "[", "]"),
        "run: &a0 {x: 1}\n"
        + "".join(f"s{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(10))}}}\n" for n in range(1, 10)),
        "placement: [" + ", ".join(["[a]"] * 20_000) + "]\n",
    ],
)
def test_aliases_that_stand_for_more_than_a_recipe_can_hold_are_refused_at_once(recipe: Path, text: str) -> None:
    recipe.write_text(text)
    started = time.monotonic()
    assert refusal(recipe).startswith(f"{recipe}: more than 10000 values, with what its aliases stand for")
    assert time.monotonic() - started < 30


def test_a_file_that_is_no_recipe_by_its_size_is_not_read_to_its_end(recipe: Path) -> None:
    recipe.write_bytes(b"#" * (2**20 + 1))
    assert refusal(recipe) == f"{recipe} has more than 1048576 bytes: it is no recipe"
    assert refusal(recipe, "--config", "/dev/zero") == "/dev/zero has more than 1048576 bytes: it is no recipe"


def test_dotted_and_nested_keys_go_together_where_they_are_different_ones(recipe: Path) -> None:
    recipe.write_text("run.name: a\nrun: {seed: 7}\nactor.optim: {lr: 0.5}\nactor: {optim.eps: 0.25, num_workers: 2}\n")
    config = load(recipe)
    assert (config.run.name, config.run.seed, config.actor.optim.lr, config.actor.optim.eps) == ("a", 7, 0.5, 0.25)


def test_an_empty_section_and_an_empty_recipe_are_fine(recipe: Path) -> None:
    recipe.write_text("run:\n")
    assert load(recipe).run.seed == PPOConfig().run.seed
    recipe.write_text("")
    assert load(recipe).run.seed == PPOConfig().run.seed


def test_a_missing_recipe_names_a_near_one(recipe: Path) -> None:
    assert refusal(recipe, "--config", str(recipe.parent / "recipes.yaml")).endswith(f"(did you mean {recipe}?)")
    assert f"did you mean {recipe}?" in refusal(recipe, "--config", "recipe.yaml")


def test_a_missing_base_names_the_line_that_asks_for_it(recipe: Path) -> None:
    top = recipe.parent / "top.yaml"
    top.write_text("run:\n  seed: 1\nbase: recipee.yaml\n")
    said = refusal(recipe, "--config", str(top))
    assert said.startswith(f"{top}:3: there is no file {recipe.parent / 'recipee.yaml'}")
    assert str(recipe) in said


def test_recipes_that_stand_on_each_other_are_refused(recipe: Path) -> None:
    recipe.write_text("base: other.yaml\n")
    (recipe.parent / "other.yaml").write_text("base: recipe.yaml\n")
    assert refusal(recipe).endswith("stands on itself")


def test_a_recipe_that_is_no_text_is_refused(recipe: Path) -> None:
    recipe.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refusal(recipe)


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "${run.dir}", "a-${oc.env:PATH}"])
def test_nothing_is_looked_up_in_a_value(recipe: Path, value: str) -> None:
    assert "${...} is not looked up here" in refusal(recipe, f"run.name={value}")
    recipe.write_text(f"run:\n  name: '{value}'\n")
    assert refusal(recipe).startswith(f"{recipe}:2: run.name={value}")


def test_a_yaml_tag_makes_no_object(recipe: Path) -> None:
    mark = recipe.parent / "executed"
    recipe.write_text(f"run:\n  name: !!python/object/apply:pathlib.Path.touch ['{mark}']\n")
    assert refusal(recipe).startswith(f"{recipe}:2: run.name=[{mark}]: expected a string")
    assert not mark.exists()


def test_a_configuration_survives_its_own_yaml(recipe: Path) -> None:
    config = load(recipe, "actor.optim.betas=[0.5,0.6]", "run.dir='x", "judge=a:b", "actor.cpus_per_worker=0.5")
    saved = recipe.parent / "config.yaml"
    saved.write_text(config_yaml(config))
    assert load(recipe, "--config", str(saved)) == config


def test_help_lists_every_key_and_ends_well(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as caught:
        load_config(SFTConfig, ["run.nope=1", "--help"], recipe)
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "  run.name  (string, required)" in text
    assert "  sft.batch_size  (int, default 64)  examples per optimizer step, over all workers [1 or more]" in text
    assert "  actor.cpus_per_worker  (float or null, default null)" in text
    assert "  run.tensorboard  (bool, default true)" in text
    assert "  actor.optim.betas  ([float, ...], default [0.9, 0.95])" in text
    assert "  cluster.env  ([string, ...], default [])" in text


@dataclass
class Printed:
    """A configuration."""

    separator: str = key("\n\n", "what stands between")


def test_help_writes_a_default_with_line_breaks_as_a_recipe_would() -> None:
    assert '  separator  (string, default "\\n\\n")  what stands between' in help_text(Printed, Path("r.yaml"))


def test_help_asks_for_no_model_that_is_found_by_itself(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_config(PPOConfig, ["--help"], recipe)
    text = " ".join(capsys.readouterr().out.split())
    assert "actor.model.path (string, required)" in text
    for role, instead in (
        ("critic", "the reward model, or the actor's model if no model rewards"),
        ("reward", "function or endpoint scores instead"),
        ("reference", "the actor's model"),
    ):
        path = "directory in Hugging Face format, or a name on the Hugging Face hub"
        assert f"{role}.model.path (string or null, default null) {path}; null: {instead}" in text


def test_a_value_out_of_its_range_names_the_file_and_line_that_count(recipe: Path) -> None:
    recipe.write_text("run: {name: r}\nactor:\n  num_workers: 0\n  zero_stage: 4\n")
    assert refusal(recipe) == f"{recipe}:3: actor.num_workers=0: expected 1 or more"
    assert refusal(recipe, "actor.num_workers=2") == f"{recipe}:4: actor.zero_stage=4: expected 0, 1, 2, 3"
    assert refusal(recipe, "actor.num_workers=-1") == "actor.num_workers=-1: expected 1 or more"
    load(recipe, "actor.num_workers=2", "actor.zero_stage=3")
    recipe.write_text("rewards:\n  polite:\n    function: score\n")
    assert refusal(recipe).startswith(f'{recipe}:3: rewards.polite.function=score: expected "package.module:function"')


def test_the_configuration_needs_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys, rlhf_dist.config.load, rlhf_dist.config.validate, rlhf_dist.config.resolve;"
        "heavy = {'torch', 'ray', 'vllm', 'deepspeed', 'transformers', 'datasets', 'numpy'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
