"""What cannot run is refused before anything is started, in one line with the key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_dist.config.algorithms import ADVANTAGE_ESTIMATORS, AdvantageEstimator
from rlhf_dist.config.load import load_config
from rlhf_dist.config.resolve import is_given, resolve_ppo
from rlhf_dist.config.schema import PPOConfig, RewardModelConfig, SFTConfig
from rlhf_dist.config.validate import validate_ppo, validate_reward, validate_sft
from rlhf_dist.errors import UserError

PPO_WORDS = ("run.name=r", "run.device=cpu", "data.path=p.jsonl", "actor.model.path=a", "reward.model.path=w")
BASIS = {
    PPOConfig: PPO_WORDS,
    SFTConfig: ("run.name=r", "data.path=p.jsonl", "actor.model.path=a"),
    RewardModelConfig: ("run.name=r", "data.path=p.jsonl", "reward.model.path=a"),
}


def check(kind: type, *words: str, check_paths: bool = False) -> None:
    config = load_config(kind, [*BASIS[kind], *words], Path("/dev/null"))
    if isinstance(config, PPOConfig):
        validate_ppo(resolve_ppo(config), check_paths)
    elif isinstance(config, SFTConfig):
        validate_sft(config, check_paths)
    else:
        assert isinstance(config, RewardModelConfig)
        validate_reward(config, check_paths)


def refusal(kind: type, *words: str, check_paths: bool = False) -> str:
    with pytest.raises(UserError) as caught:
        check(kind, *words, check_paths=check_paths)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", [PPOConfig, SFTConfig, RewardModelConfig])
def test_what_names_its_paths_can_run(kind: type) -> None:
    check(kind)


@pytest.mark.parametrize(
    "word",
    [
        *("actor.num_workers=0", "critic.num_workers=0", "reward.num_workers=-1", "reference.num_workers=0"),
        *("rollout.num_engines=0", "actor.zero_stage=4", "reward.zero_stage=1", "reference.zero_stage=2"),
        *("actor.train_engine=deepspeed", "critic.train_engine=none"),
        *("actor.micro_batch_tokens=0", "actor.threads_per_worker=0", "actor.cpus_per_worker=-1"),
        *("actor.optim.lr=0", "critic.optim.lr=-1", "actor.optim.lr=.nan", "actor.optim.lr=.inf"),
        *("actor.optim.betas=[0.9]", "actor.optim.betas=[0.9, 1.0]", "actor.optim.schedule=linear"),
        *("actor.optim.warmup_from=2", "actor.optim.min_lr_ratio=-1", "actor.optim.grad_clip=-1"),
        *("actor.model.dtype=float16", "rollout.dtype=half", "run.device=gpu", "rollout.backend=vlm"),
        *("rollout.temperature=0", "rollout.max_response_tokens=0", "rollout.samples_per_prompt=0"),
        *("rollout.memory_utilization=1.5", "rollout.memory_gib=0", "rollout.max_batch=0"),
        *("ppo.steps=0", "ppo.prompts_per_step=0", "ppo.epochs=0", "ppo.clip=0", "ppo.value_clip=-1"),
        *("ppo.gamma=1.1", "ppo.lam=-0.1", "ppo.kl.coef=-1", "ppo.kl.controller=adaptiv", "ppo.kl.target=0"),
        *("ppo.kl.horizon=0", "weights.tolerance=0", "weights.bucket_mb=0", "weights.timeout_s=0"),
        *("run.seed=-1", "run.save_every=-1", "run.keep_checkpoints=0", "cluster.call_timeout_s=0"),
        *("data.eval_count=0", "reward.function_timeout_s=0"),
    ],
)
def test_a_value_out_of_its_range_is_refused_with_its_key(word: str) -> None:
    key = word.partition("=")[0]
    said = refusal(PPOConfig, word)
    assert said.startswith(f"{key}=")
    assert ": expected " in said


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        *((SFTConfig, word) for word in ("sft.epochs=0", "sft.batch_size=0", "sft.max_steps=-1", "data.max_tokens=1")),
        *((RewardModelConfig, word) for word in ("training.epochs=0", "training.batch_size=0", "reward.zero_stage=7")),
    ],
)
def test_supervised_values_have_their_ranges_too(kind: type, word: str) -> None:
    assert refusal(kind, word).startswith(word.partition("=")[0] + "=")


def test_plain_torch_is_refused_where_it_would_have_to_share() -> None:
    said = refusal(PPOConfig, "critic.num_workers=2", "critic.train_engine=torch")
    assert "critic.train_engine=torch trains on one worker, and critic.num_workers is 2" in said


def test_a_near_choice_is_suggested() -> None:
    assert refusal(PPOConfig, "rollout.backend=vlm").endswith("expected vllm, hf (did you mean vllm?)")


@pytest.mark.parametrize("name", ["a/b", "../x", "-x", "a b", ".", "ä"])
def test_a_run_name_must_be_a_plain_file_name(name: str) -> None:
    assert refusal(PPOConfig, f"run.name={name}").startswith(f"run.name={name}: expected letters")


@pytest.mark.parametrize("key", ["run.name", "data.path", "actor.model.path"])
def test_a_key_without_default_must_be_given(key: str) -> None:
    assert refusal(PPOConfig, f"{key}=null").startswith(f"{key} is not set")


def test_a_reward_must_be_given() -> None:
    said = refusal(PPOConfig, "reward.model.path=null")
    assert said == "reward: nothing scores: set reward.model.path, reward.function or reward.endpoint"


def test_a_function_and_a_model_cannot_both_reward() -> None:
    said = refusal(PPOConfig, "reward.function=m:f")
    assert said.startswith("reward.function=m:f and reward.model.path=w are both given: set one of them to null")
    check(PPOConfig, "reward.function=m:f", "reward.model.path=null")


@pytest.mark.parametrize("key", ["reward.function", "judge"])
def test_a_function_is_named_by_module_and_name(key: str) -> None:
    said = refusal(PPOConfig, f"{key}=score", "reward.model.path=null" if key == "reward.function" else "run.seed=1")
    assert said == f'{key}=score: expected "package.module:function" or "path/file.py:function"'


def test_a_minibatch_cannot_be_larger_than_a_step() -> None:
    words = ("ppo.prompts_per_step=4", "rollout.samples_per_prompt=2")
    assert refusal(PPOConfig, *words, "ppo.minibatch_size=9").startswith("ppo.minibatch_size=9 is more than the 8")
    check(PPOConfig, *words, "ppo.minibatch_size=8")


def test_the_actor_must_get_a_step() -> None:
    assert refusal(PPOConfig, "ppo.steps=2", "ppo.critic_warmup_steps=2").startswith("ppo.critic_warmup_steps=2")
    both = refusal(PPOConfig, "ppo.old_logprobs=rollout", "ppo.rollout_correction=mask")
    assert both.startswith("ppo.rollout_correction=mask needs the actor's log-probabilities")


@pytest.mark.parametrize(("name", "facts"), ADVANTAGE_ESTIMATORS.items())
def test_what_an_estimator_needs_is_asked_for_and_filled_in(name: str, facts: AdvantageEstimator) -> None:
    word, groups = f"ppo.advantage={name}", "rollout.samples_per_prompt=2"
    config = resolve_ppo(load_config(PPOConfig, [*PPO_WORDS, word], Path("/dev/null")))
    assert (config.ppo.use_critic, config.ppo.whiten_advantages) == (facts.needs_critic, facts.whitens)
    if facts.needs_groups:
        assert refusal(PPOConfig, word).startswith(f"{word} compares the samples of a prompt: raise rollout.samples")
    else:
        check(PPOConfig, word)
    if facts.needs_critic:
        assert refusal(PPOConfig, word, groups, "ppo.use_critic=false").startswith(f"{word} needs a critic")
    else:
        check(PPOConfig, word, groups, "ppo.use_critic=false")


def test_the_four_estimators_ask_for_what_their_papers_do() -> None:
    asked = {name: (e.needs_critic, e.needs_groups, e.whitens) for name, e in ADVANTAGE_ESTIMATORS.items()}
    assert asked["gae"] == (True, False, True)
    assert asked["grpo"] == asked["rloo"] == (False, True, False)
    assert asked["reinforce++"] == (False, False, True)


def test_a_block_on_cpu_is_a_multiple_of_32() -> None:
    assert refusal(PPOConfig, "rollout.block_size=16").startswith("rollout.block_size=16: without an accelerator")
    check(PPOConfig, "rollout.block_size=16", "rollout.backend=hf")
    check(PPOConfig, "rollout.block_size=16", "run.device=cuda")


def test_resuming_and_overwriting_contradict_each_other() -> None:
    assert refusal(PPOConfig, "run.resume=true", "run.overwrite=true").startswith("run.resume=true and run.overwrite")
    assert refusal(PPOConfig, "run.resume=auto", "run.overwrite=true").startswith("run.resume=auto and run.overwrite")


def test_resume_is_one_of_three() -> None:
    check(PPOConfig, "run.resume=auto")
    assert refusal(PPOConfig, "run.resume=maybe").startswith("run.resume=maybe: expected false, true, auto")


def test_models_that_are_not_named_come_from_those_that_are() -> None:
    config = resolve_ppo(load_config(PPOConfig, PPO_WORDS, Path("/dev/null")))
    assert (config.reference.model.path, config.critic.model.path) == ("a", "w")
    words = ("actor.model.path=a", "reward.function=m:f")
    config = resolve_ppo(load_config(PPOConfig, words, Path("/dev/null")))
    assert (config.reference.model.path, config.critic.model.path) == ("a", "a")
    assert not is_given(config.reward.model.path)
    config = resolve_ppo(load_config(PPOConfig, [*words, "critic.model.path=c"], Path("/dev/null")))
    assert config.critic.model.path == "c"


# --- what is on the disk ------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two models and a data set, as the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n')
    for name in ("a", "w"):
        model(tmp_path / name)
    return tmp_path


def model(folder: Path, vocabulary: int = 3, context: int = 512) -> None:
    folder.mkdir(exist_ok=True)
    sizes = {"vocab_size": vocabulary, "max_position_embeddings": context}
    (folder / "config.json").write_text(json.dumps(sizes))


def tokenizer(folder: Path, words: str, **more: object) -> None:
    content = {"model": {"vocab": {word: i for i, word in enumerate(words)}}, "added_tokens": [], **more}
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize("kind", [PPOConfig, SFTConfig, RewardModelConfig])
def test_models_and_data_that_are_there_can_be_used(here: Path, kind: type) -> None:
    check(kind, check_paths=True)


def test_a_directory_that_is_no_model_is_refused(here: Path) -> None:
    (here / "a" / "config.json").unlink()
    said = refusal(PPOConfig, check_paths=True)
    assert said == "actor.model.path: the directory a has no config.json: it is not a model directory"


def test_a_missing_model_directory_names_a_near_one(here: Path) -> None:
    (here / "runs" / "demo-sft").mkdir(parents=True)
    said = refusal(SFTConfig, "actor.model.path=runs/demo-stf/model", check_paths=True)
    assert said == ("actor.model.path: there is no model directory runs/demo-stf/model (did you mean runs/demo-sft?)")


def test_a_missing_reward_model_is_named_by_its_own_key_not_by_the_critics_that_starts_from_it(here: Path) -> None:
    said = refusal(PPOConfig, "critic.model.path=null", "reward.model.path=runs/x/model", check_paths=True)
    assert said.startswith("reward.model.path: there is no model directory runs/x/model")


def test_a_missing_path_in_a_folder_that_is_here_is_no_hub_name(here: Path) -> None:
    (here / "demo").mkdir()
    assert "there is no model directory demo/base" in refusal(SFTConfig, "actor.model.path=demo/base", check_paths=True)
    check(SFTConfig, "actor.model.path=meta-llama/Llama-3.1-8B", check_paths=True)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("q.jsonl", "data.path: there is no file q.jsonl (did you mean p.jsonl?)"),
        ("a", "data.path: a is a directory"),
        ("./nothing/here", "data.path: ./nothing/here is no .jsonl or .parquet file, nor a hub name"),
    ],
)
def test_missing_data_is_refused(here: Path, path: str, said: str) -> None:
    assert refusal(PPOConfig, f"data.path={path}", check_paths=True).startswith(said)
    word = f"data.eval_path={path}"
    assert refusal(PPOConfig, word, check_paths=True).startswith(said.replace("data.path", "data.eval_path"))


def test_missing_further_comparisons_are_refused(here: Path) -> None:
    said = refusal(RewardModelConfig, "data.extra_path=x.jsonl", check_paths=True)
    assert said.startswith("data.extra_path: there is no file x.jsonl")


def test_lengths_beyond_the_context_are_refused(here: Path) -> None:
    words = ("rollout.max_prompt_tokens=300", "rollout.max_response_tokens=213")
    assert refusal(PPOConfig, *words, check_paths=True).startswith(
        "rollout.max_prompt_tokens=300 + rollout.max_response_tokens=213 is more than the context of 512 tokens "
        "of actor.model.path=a"
    )
    model(here / "w", context=100)
    assert "of 100 tokens of critic.model.path=w" in refusal(PPOConfig, check_paths=True)
    assert "data.max_tokens=513 is more" in refusal(SFTConfig, "data.max_tokens=513", check_paths=True)
    assert "data.max_tokens=513 is more" in refusal(RewardModelConfig, "data.max_tokens=513", check_paths=True)


def test_models_of_different_tokens_are_refused(here: Path) -> None:
    model(here / "w", vocabulary=4)
    assert refusal(PPOConfig, check_paths=True) == (
        "critic.model.path=w has a vocabulary of 4 tokens, actor.model.path=a one of 3: they must be equal"
    )
    tokenizer(here / "a", "abc")
    tokenizer(here / "w", "abc", truncation=None)
    check(PPOConfig, check_paths=True)  # the same tokens, a larger embedding
    tokenizer(here / "w", "acb")
    assert refusal(PPOConfig, check_paths=True).startswith("critic.model.path=w has another tokenizer than actor")


def test_a_broken_file_of_a_model_is_named(here: Path) -> None:
    (here / "a" / "config.json").write_text("{")
    assert refusal(PPOConfig, check_paths=True).startswith("a/config.json: not valid JSON")
    model(here / "a")
    tokenizer(here / "a", "abc")
    (here / "w" / "tokenizer.json").write_text("{}")
    assert refusal(PPOConfig, check_paths=True).startswith("w/tokenizer.json: not a tokenizer")


def test_engines_that_share_devices_cannot_sample_ahead() -> None:
    said = refusal(PPOConfig, "rollout.staleness=1", "placement=colocated")  # on a CPU too: they leave it in turns
    assert said.startswith("rollout.staleness=1: the engines share devices with actor, ")
    check(PPOConfig, "rollout.staleness=1", "placement=separate")


def test_a_buffer_for_overlong_responses_fits_into_a_response() -> None:
    said = refusal(PPOConfig, "ppo.overlong_buffer=65", "rollout.max_response_tokens=64")
    assert said.startswith("ppo.overlong_buffer=65 is more than a response may have")
