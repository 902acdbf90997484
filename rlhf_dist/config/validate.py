"""Finds the combinations that cannot work, before anything is started. Each ends in one line with the key.

What a single key may be (ranges, choices, simple forms) stands in the schema, and `checks.py` holds values to it. Here
is what several keys must be together, what a text must be that has no simple form, and what must be on the disk.
"""

from __future__ import annotations

import importlib.util
import os
import re
from urllib.parse import urlsplit

from rlhf_dist import device
from rlhf_dist.config.algorithms import ADVANTAGE_ESTIMATORS, KL_LOSS_ESTIMATORS, advantage_estimator
from rlhf_dist.config.checks import check_values
from rlhf_dist.config.keys import schema_keys, value_of
from rlhf_dist.config.model_files import check_context, check_same_tokens
from rlhf_dist.config.parsing import port_range, shared_groups
from rlhf_dist.config.paths import check_data_path, check_model_path
from rlhf_dist.config.resolve import MAIN_REWARD, is_given, reward_sources, uses_model
from rlhf_dist.config.roles import ACTOR, CRITIC, ROLLOUT, JobConfig, declared_roles, job_roles, reward_section
from rlhf_dist.config.schema import (
    ComparisonDataConfig,
    DemonstrationDataConfig,
    DPOConfig,
    PPOConfig,
    PromptDataConfig,
    RewardModelConfig,
    RewardSourceConfig,
    RunConfig,
    SFTConfig,
    TextDataConfig,
    TrainedRoleConfig,
)
from rlhf_dist.config.secrets import check_environment, check_unmasked, environment, masked_url, shown
from rlhf_dist.errors import UserError

_TOKEN = re.compile(r"[!-~]+")  # a header carries further ones, but no bearer token has them (RFC 6750, section 2.1)
_CPU_BLOCK = 32  # vLLM's attention on CPU wants whole blocks of this many tokens
_SOURCE_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TAKEN_NAMES = (MAIN_REWARD, "score", "total")  # of metrics


def validate_ppo(config: PPOConfig, check_paths: bool = True) -> None:
    """Passes for a configuration that can run, as `resolve_ppo` made it.

    Args:
        config: the resolved configuration.
        check_paths: look at models, data and the run directory on this machine, too.

    Raises:
        UserError: the first thing that is wrong.
    """
    _check_alone(config, check_paths)
    _check_reward_names(config)
    for name, source in reward_sources(config).items():
        _check_source(reward_section(name), source)
    _check_batches(config)
    _check_algorithm(config)
    _check_steps(config)
    _check_text(config.pretrain, "ppo.pretrain_coef", config.ppo.pretrain_coef, check_paths)
    _check_block_size(config)
    _check_placement(config)
    if check_paths:
        limits = {
            "rollout.max_prompt_tokens": config.rollout.max_prompt_tokens,
            "rollout.max_response_tokens": config.rollout.max_response_tokens,
        }
        _check_models(config, limits)
        _check_data(config.data)


def validate_sft(config: SFTConfig, check_paths: bool = True) -> None:
    """The same as :func:`validate_ppo`, for step 1."""
    _check_alone(config, check_paths)
    _check_text(config.pretrain, "sft.pretrain_share", config.sft.pretrain_share, check_paths)
    if check_paths:
        _check_models(config, {"data.max_tokens": config.data.max_tokens})
        _check_data(config.data)


def validate_reward(config: RewardModelConfig, check_paths: bool = True) -> None:
    """The same as :func:`validate_ppo`, for step 2."""
    _check_alone(config, check_paths)
    if check_paths:
        _check_models(config, {"data.max_tokens": config.data.max_tokens})
        _check_comparisons(config.data)
        if config.data.demonstrations_path is not None:
            check_data_path(config.data.demonstrations_path, "data.demonstrations_path")


def validate_dpo(config: DPOConfig, check_paths: bool = True) -> None:
    """The same as :func:`validate_ppo`, for DPO, as `resolve_dpo` made it."""
    _check_alone(config, check_paths)
    _role_groups(config)
    if check_paths:
        _check_models(config, {"data.max_tokens": config.data.max_tokens})
        _check_comparisons(config.data)


def _check_alone(config: JobConfig, here: bool) -> None:
    """What every job has: keys that must be set, their values, and the sections of the run, the cluster and the roles.

    Args:
        here: take the variables that the cluster's section names from this process' environment, too.
    """
    _require(config)
    check_values(config)
    _check_run(config.run)
    port_range(config.cluster.ports)
    check_environment(config.cluster.env)
    if here:
        environment(config.cluster.env)
    for role in declared_roles(config):
        if isinstance(role.config, TrainedRoleConfig):
            _check_train_engine(role.section, role.config)


def _require(config: object) -> None:
    for name, key in schema_keys(type(config)).items():
        if key.required and not is_given(value_of(config, name)):
            raise UserError(f"{name} is not set ({key.description}): give {name}=VALUE, or set it in the recipe")


def _check_run(run: RunConfig) -> None:
    if run.keep_best is not None and run.keep_best.lstrip("-").startswith("eval/") and not run.eval_every:
        raise UserError(f"run.keep_best={run.keep_best}: there are no evaluations on the way: set run.eval_every")
    if run.resume != "false" and run.overwrite:
        raise UserError(
            f"run.resume={run.resume} and run.overwrite=true contradict each other: set one of them to false"
        )
    _check_loggers(run)


def _check_loggers(run: RunConfig) -> None:
    """Passes where the libraries of the loggers that a run asks for are installed."""
    needs = {"wandb": (run.wandb, ["wandb"]), "trackio": (run.trackio, ["trackio", "pandas"])}
    database = run.mlflow is not None and not run.mlflow.startswith(("http:", "https:"))
    needs["mlflow"] = (run.mlflow, ["mlflow", "sqlalchemy", "alembic"] if database else ["mlflow"])
    if run.mlflow is not None:
        check_unmasked("run.mlflow", run.mlflow)
    for name, (value, modules) in needs.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if value is not None and missing:
            raise UserError(
                f"run.{name}={shown(f'run.{name}', value)}: {' and '.join(missing)} cannot be imported: install the "
                "extra loggers of this package (pip install -e '.[loggers]'), or leave the key out"
            )


def _check_train_engine(section: str, role: TrainedRoleConfig) -> None:
    if role.train_engine == "torch" and role.num_workers > 1:
        raise UserError(
            f"{section}.train_engine=torch trains on one worker, and {section}.num_workers is {role.num_workers}: "
            f"set {section}.train_engine to auto"
        )


def _role_groups(config: PPOConfig | DPOConfig) -> list[list[str]]:
    """The roles, those that the run does without too, by the devices that `placement` puts them on."""
    return shared_groups(config.placement, [role.name for role in declared_roles(config)])


def _check_reward_names(config: PPOConfig) -> None:
    for name in config.rewards:
        if _SOURCE_NAME.fullmatch(name) is None or name in _TAKEN_NAMES:
            raise UserError(
                f"rewards.{name}: the name must be of lower-case letters, digits and underscores, and none of "
                f"{', '.join(_TAKEN_NAMES)}"
            )


def _check_source(key: str, source: RewardSourceConfig) -> None:
    given = {f"{key}.function": source.function, f"{key}.endpoint": source.endpoint}
    if is_given(source.model.path):
        given[f"{key}.model.path"] = source.model.path
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) > 1:
        both = " and ".join(f"{name}={shown(name, value)}" for name, value in named.items())
        raise UserError(f"{both} are both given: set one of them to null")
    if not named:
        raise UserError(f"{key}: nothing scores: set {key}.model.path, {key}.function or {key}.endpoint")
    if source.kind == "process" and not uses_model(source):
        (given_key,) = named
        raise UserError(
            f"{key}.kind=process: a model scores steps, and {given_key} whole responses: set {key}.kind to outcome"
        )
    _check_separator(f"{key}.step_separator", source.step_separator)
    if source.endpoint is not None:
        _check_endpoint(key, source.endpoint, source.endpoint_token_env)


def _check_separator(name: str, separator: str) -> None:
    if not separator:
        raise UserError(f"{name} is empty: expected the text that ends a step")
    if "\\n" in separator:
        raise UserError(
            f"{name} holds a backslash and an n, where a line break is meant: write $'\\n' in a shell, "
            '"\\n" in a recipe'
        )


def _check_endpoint(key: str, endpoint: str, token_env: str | None) -> None:
    try:
        parts = urlsplit(endpoint)
        host, _ = parts.hostname, parts.port
    except ValueError as error:  # whose text repeats parts of the URL
        raise UserError(f"{key}.endpoint={masked_url(endpoint)}: expected an http or https URL") from error
    if parts.scheme not in ("http", "https") or not host:
        raise UserError(f"{key}.endpoint={masked_url(endpoint)}: expected an http or https URL")
    check_unmasked(f"{key}.endpoint", endpoint)
    if parts.username is not None:
        raise UserError(f"{key}.endpoint: a name or password in the URL would be shown: use {key}.endpoint_token_env")
    if token_env is None:
        return
    token = os.environ.get(token_env, "").strip()
    if not token:
        raise UserError(f"{key}.endpoint_token_env={token_env}: that environment variable is not set")
    if _TOKEN.fullmatch(token) is None:
        raise UserError(
            f"{key}.endpoint_token_env={token_env}: that environment variable holds a character that no token has, "
            "such as a line break or a space within it"
        )
    if parts.scheme == "http" and host not in ("localhost", "127.0.0.1", "::1"):
        raise UserError(f"{key}.endpoint: a token would go to {host} unencrypted: use https")


def _check_batches(config: PPOConfig) -> None:
    samples = config.ppo.prompts_per_step * config.rollout.samples_per_prompt
    if config.ppo.minibatch_size > samples:
        raise UserError(
            f"ppo.minibatch_size={config.ppo.minibatch_size} is more than the {samples} sequences of a step "
            "(ppo.prompts_per_step * rollout.samples_per_prompt): lower it, or raise one of these"
        )
    if config.ppo.critic_warmup_steps >= config.ppo.steps:
        raise UserError(
            f"ppo.critic_warmup_steps={config.ppo.critic_warmup_steps} leaves the actor none of the "
            f"ppo.steps={config.ppo.steps} steps: lower it"
        )


def _check_algorithm(config: PPOConfig) -> None:
    ppo, rollout = config.ppo, config.rollout
    if rollout.environment is not None and rollout.max_turn_tokens > rollout.max_response_tokens:
        raise UserError(
            f"rollout.max_turn_tokens={rollout.max_turn_tokens} is more than a whole response may have "
            f"(rollout.max_response_tokens={rollout.max_response_tokens}): lower it"
        )
    if ppo.overlong_buffer > rollout.max_response_tokens:
        raise UserError(
            f"ppo.overlong_buffer={ppo.overlong_buffer} is more than a response may have "
            f"(rollout.max_response_tokens={rollout.max_response_tokens}): lower it"
        )
    estimator = advantage_estimator(ppo.advantage)
    if estimator.needs_groups and rollout.samples_per_prompt < 2:
        raise UserError(
            f"ppo.advantage={ppo.advantage} compares the samples of a prompt: raise rollout.samples_per_prompt="
            f"{rollout.samples_per_prompt} to 2 or more"
        )
    if estimator.needs_critic and not ppo.use_critic:
        raise UserError(
            f"ppo.advantage={ppo.advantage} needs a critic: leave ppo.use_critic to null, or set it to true"
        )
    if ppo.critic_warmup_steps and not ppo.use_critic:
        raise UserError(
            f"ppo.critic_warmup_steps={ppo.critic_warmup_steps}: ppo.advantage={ppo.advantage} has no critic"
        )
    if ppo.kl.place == "loss" and ppo.kl.estimator not in KL_LOSS_ESTIMATORS:
        raise UserError(
            f"ppo.kl.estimator={ppo.kl.estimator} has a gradient of mean zero as a loss (ppo.kl.place=loss): "
            "use k2, whose gradient is the KL's, or k3"
        )
    if ppo.old_logprobs == "rollout" and ppo.rollout_correction not in ("auto", "off"):
        raise UserError(
            f"ppo.rollout_correction={ppo.rollout_correction} needs the actor's log-probabilities beside the engine's: "
            "set ppo.old_logprobs=actor, or ppo.rollout_correction=off"
        )
    narrowed = rollout.top_p < 1 or rollout.top_k > 0
    if narrowed and rollout.backend == "vllm" and rollout.temperature != 1:
        raise UserError(
            f"rollout.temperature={rollout.temperature} with top_p or top_k: vLLM does not tell the log-probabilities "
            "before top-p and top-k at another temperature than 1; set it to 1, or rollout.backend=hf"
        )


def _check_steps(config: PPOConfig) -> None:
    """The scores of a response's steps are of use to the estimator."""
    stepwise = [name for name, source in reward_sources(config).items() if source.kind == "process"]
    if stepwise and advantage_estimator(config.ppo.advantage).sums_rewards:
        others = [name for name, other in ADVANTAGE_ESTIMATORS.items() if not other.sums_rewards]
        raise UserError(
            f"ppo.advantage={config.ppo.advantage} gives all tokens of a response the same advantage, so that the "
            f"scores of its steps ({reward_section(stepwise[0])}.kind=process) would be lost: set it to "
            f"{', '.join(others)} or a function of yours"
        )


def _check_text(text: TextDataConfig, name: str, value: float, check_paths: bool) -> None:
    """The pretraining text, that the key ``name`` with its ``value`` may ask for."""
    if text.path is None:
        if value > 0:
            raise UserError(f"{name}={value} needs pretraining text: set pretrain.path, or {name}=0")
        return
    if check_paths:
        check_data_path(text.path, "pretrain.path")
        if text.eval_path is not None:
            check_data_path(text.eval_path, "pretrain.eval_path")


def _check_block_size(config: PPOConfig) -> None:
    size = config.rollout.block_size
    if config.rollout.backend != "vllm" or size % _CPU_BLOCK == 0:
        return
    if not device.resolve(config.run.device).is_accelerator:
        raise UserError(f"rollout.block_size={size}: without an accelerator it must be a multiple of {_CPU_BLOCK}")


def _check_placement(config: PPOConfig) -> None:
    groups = _role_groups(config)
    if config.rollout.backend == "hf" and config.rollout.tensor_parallel > 1:
        raise UserError(
            f"rollout.tensor_parallel={config.rollout.tensor_parallel}: rollout.backend=hf holds a model on one "
            "device; use vllm"
        )
    processes = config.rollout.num_engines * config.rollout.tensor_parallel
    together = any({ACTOR, ROLLOUT} <= set(group) for group in groups)
    if config.weights.transport == "collective" and together and device.resolve(config.run.device).is_accelerator:
        raise UserError("weights.transport=collective: actor and rollout share devices (placement): use auto or host")
    beside = sorted({role for group in groups if ROLLOUT in group for role in group} - {ROLLOUT})
    if config.rollout.staleness and beside:
        raise UserError(
            f"rollout.staleness={config.rollout.staleness}: the engines share devices with {', '.join(beside)} "
            "(placement), so they cannot sample while the others work: give rollout devices of its own, or use 0"
        )
    if config.weights.transport == "shared" and not (together and processes == config.actor.num_workers):
        raise UserError(
            "weights.transport=shared: actor and rollout must have the same devices: name them together in placement, "
            f"with actor.num_workers={config.actor.num_workers} equal to rollout.num_engines * "
            f"rollout.tensor_parallel={processes}"
        )


def _check_models(config: JobConfig, limits: dict[str, int]) -> None:
    """All roles' models are there, take sequences as long as the ``limits`` together, and read the same tokens."""
    roles = job_roles(config)
    # The critic last: it starts from the reward model where no model of its own is named, and a path that is wrong is
    # said by the key that was written.
    for role in sorted(roles, key=lambda role: role.name == CRITIC):
        check_model_path(role.model.path, role.model_key)
    paths = {role.model_key: role.model.path for role in roles}
    for key, path in paths.items():
        check_context(path, key, limits)
    first, *others = paths.items()
    for key, path in others:
        check_same_tokens(first[1], path, key)


def _check_data(data: PromptDataConfig | DemonstrationDataConfig | ComparisonDataConfig) -> None:
    check_data_path(data.path, "data.path")
    if data.eval_path is not None:
        check_data_path(data.eval_path, "data.eval_path")


def _check_comparisons(data: ComparisonDataConfig) -> None:
    _check_data(data)
    if data.extra_path is not None:
        check_data_path(data.extra_path, "data.extra_path")
