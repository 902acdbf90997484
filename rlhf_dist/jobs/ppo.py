"""Step 3, PPO and what stands in its place: from its configuration to its trainer."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from transformers import PreTrainedTokenizerBase

from rlhf_dist.algo.advantages import ESTIMATORS, Estimator
from rlhf_dist.algo.minibatches import steps_per_batch
from rlhf_dist.cluster.group import Construction, WorkerGroup
from rlhf_dist.cluster.roles import Actor, AdapterOff, Critic, Reference, Reward, Rollout
from rlhf_dist.cluster.sample_stream import SampleStream
from rlhf_dist.cluster.weight_sync import WeightSync
from rlhf_dist.config.resolve import reward_sources, unsharded_alone, uses_model
from rlhf_dist.config.roles import ACTOR, CRITIC, REFERENCE, ROLLOUT, job_roles, reward_role
from rlhf_dist.config.schema import ModelRoleConfig, PPOAlgoConfig, PPOConfig, RewardSourceConfig
from rlhf_dist.controller.parity import TOLERANCES
from rlhf_dist.controller.ppo import PPO, PPORoles, RewardSource
from rlhf_dist.controller.ppo_trainer import PPOData, PPOTrainer
from rlhf_dist.controller.trainer import RunContext, Trainer
from rlhf_dist.controller.turns import Environment
from rlhf_dist.controller.user_estimator import UserEstimator
from rlhf_dist.controller.view import PPO_COLUMNS
from rlhf_dist.data.functions import load_function
from rlhf_dist.data.prompts import load_prompts
from rlhf_dist.data.tokenizer import load_tokenizer
from rlhf_dist.device import Device
from rlhf_dist.engine.choose import libraries_of
from rlhf_dist.engine.function_reward import FunctionScorer
from rlhf_dist.engine.http_reward import HTTPScorer
from rlhf_dist.engine.policy import ActorEngine, ReferenceEngine
from rlhf_dist.engine.process_reward import ProcessRewardEngine
from rlhf_dist.engine.scalar import CriticEngine, RewardEngine
from rlhf_dist.engine.text_reward import TextReward, TextScorer
from rlhf_dist.jobs.datasets import pretraining_text
from rlhf_dist.jobs.engines import engine_variables, rollout_engines, with_reachable_cache
from rlhf_dist.jobs.run import Prepared
from rlhf_dist.plan.batch_limits import batch_limits
from rlhf_dist.plan.pools import job_pools


def prepare(config: PPOConfig, device: Device) -> Prepared:
    """Reads the job's data, for workers on ``device``; see :func:`rlhf_dist.jobs.run.run_job`."""
    pools = job_pools(config, device)
    data = _ppo_data(config)
    tolerance = config.weights.tolerance
    if tolerance is None:
        tolerance = max(TOLERANCES[device.dtype(name)] for name in (config.rollout.dtype, config.actor.model.dtype))

    def build(context: RunContext) -> Trainer:
        roles = _ppo_roles(config, context, device, [data.tokenizer.eos_token_id])
        environment = _environment(config, data.tokenizer)
        ppo = PPO(config, roles, _estimator(config.ppo), environment, context.timer, tolerance)
        return PPOTrainer(config, ppo, data, context)

    return Prepared("PPO", PPO_COLUMNS, config.ppo.steps, data, pools, build)


def _estimator(ppo: PPOAlgoConfig) -> Estimator:
    name = ppo.advantage
    return ESTIMATORS[name] if name in ESTIMATORS else UserEstimator(name, load_function(name), ppo.function_timeout_s)


def _environment(config: PPOConfig, tokenizer: PreTrainedTokenizerBase) -> Environment | None:
    rollout = config.rollout
    if rollout.environment is None:
        return None
    context = rollout.max_prompt_tokens + rollout.max_response_tokens
    reply = load_function(rollout.environment)
    return Environment(
        rollout.environment,
        reply,
        tokenizer,
        rollout.max_turns,
        rollout.max_turn_tokens,
        context,
        config.ppo.function_timeout_s,
    )


def _ppo_data(config: PPOConfig) -> PPOData:
    model, data, limit = config.actor.model, config.data, config.rollout.max_prompt_tokens
    tokenizer = load_tokenizer(model.path, model.trust_remote_code)
    prompts = load_prompts(data.path, data.split, tokenizer, limit)
    if data.eval_path is not None:
        held_out = load_prompts(data.eval_path, data.eval_split, tokenizer, limit)
    else:
        prompts, held_out = prompts.split_off(data.eval_count)
    judge, limit_s = None, config.ppo.function_timeout_s
    if config.judge is not None:
        judge = FunctionScorer(config.judge, limit_s, "judge", "ppo.function_timeout_s")
    _estimator(config.ppo)  # as the environment, for the mistakes in it
    _environment(config, tokenizer)
    for source in reward_sources(config).values():
        if source.function is not None:
            load_function(source.function)  # its workers load it for themselves; a mistake in it shows here
    sampler, text = None, None
    if config.pretrain.path is not None:
        samples = config.ppo.prompts_per_step * config.rollout.samples_per_prompt
        per_step = samples * config.ppo.pretrain_per_sample
        sampler, text = pretraining_text(config.pretrain, tokenizer, per_step, config.run.seed)
    learned = sampler if config.ppo.pretrain_coef else None  # the loss is measured also where it is not trained on
    return PPOData(prompts, held_out, tokenizer, model.path, learned, text, judge)


def _ppo_roles(config: PPOConfig, context: RunContext, device: Device, stop_tokens: list[int]) -> PPORoles:
    """Starts all workers, lets them load at the same time, and opens the way of the weights."""
    temperature = config.rollout.temperature
    samples = config.ppo.prompts_per_step * config.rollout.samples_per_prompt
    total = config.ppo.steps * steps_per_batch(samples, config.ppo.minibatch_size, config.ppo.epochs)
    making: list[Construction] = []
    present = {role.name for role in job_roles(config)}

    def modelled(name: str, factory: Callable[..., object], role: ModelRoleConfig, *args: object) -> WorkerGroup:
        group, first = context.group(name), unsharded_alone(role, device)
        libraries = libraries_of(first, device)
        making.append(Construction(group, factory, lambda _: (first, device, *args), True, libraries))
        return group

    # The engines come first: where devices are shared, vLLM takes its measure of an empty one.
    rollout = context.group(ROLLOUT, engine_variables(config.rollout, device))
    sampling = with_reachable_cache(config.rollout, config.actor.model, batch_limits(config), rollout.device)
    colocated = context.placement.beside(ROLLOUT)
    making.append(rollout_engines(sampling, config.actor.model, rollout, colocated, stop_tokens, config.run.seed))
    policy = Actor(modelled(ACTOR, ActorEngine, config.actor, temperature, total))
    critic = Critic(modelled(CRITIC, CriticEngine, config.critic, total)) if CRITIC in present else None
    reference: Reference | AdapterOff = (
        Reference(modelled(REFERENCE, ReferenceEngine, config.reference, temperature))
        if REFERENCE in present
        else AdapterOff(policy.group)
    )
    rewards = []
    for name, source in reward_sources(config).items():
        scorer = context.group(reward_role(name))
        making.append(_scorers(config, source, scorer))
        rewards.append(RewardSource(name, source.weight, Reward(scorer)))
    context.build(making)
    engines = Rollout(rollout)
    weights = WeightSync(
        policy, engines, context.scheduler, config.rollout.tensor_parallel, config.weights, config.cluster
    )
    stream = SampleStream(engines, context.scheduler, config.cluster.call_timeout_s)
    return PPORoles(policy, critic, tuple(rewards), reference, stream, weights, context.scheduler)


def _scorers(config: PPOConfig, source: RewardSourceConfig, group: WorkerGroup) -> Construction:
    tokenizer = config.actor.model.path, config.actor.model.trust_remote_code
    if uses_model(source):
        arguments = unsharded_alone(source, group.device), group.device
        libraries = libraries_of(*arguments)
        if source.kind == "process":
            return Construction(group, ProcessRewardEngine, lambda _: (*arguments, *tokenizer), True, libraries)
        return Construction(group, RewardEngine, lambda _: arguments, True, libraries)
    scorer = partial(_text_scorer, source, _token(source))
    return Construction(
        group,
        lambda *args: TextReward(scorer(), *args),
        lambda rank: (*tokenizer, rank, group.size),
        collective=False,
    )


def _token(source: RewardSourceConfig) -> str | None:
    """Read here, as the workers' environment may be another, and Ray would show it to whoever looks."""
    return None if source.endpoint_token_env is None else os.environ[source.endpoint_token_env].strip()


def _text_scorer(source: RewardSourceConfig, token: str | None) -> TextScorer:
    if source.function is not None:
        return FunctionScorer(source.function, source.function_timeout_s)
    assert source.endpoint is not None, "checked by validate"
    return HTTPScorer(source.endpoint, source.endpoint_timeout_s, source.endpoint_retries, token)
