"""Builds the parts of a job, wires them, and runs it: what depends on the configuration is decided here, once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rlhf_dist.config.load import config_yaml, load_config
from rlhf_dist.config.resolve import MAIN_REWARD, resolve_dpo, resolve_ppo, reward_sources, uses_model
from rlhf_dist.config.schema import (
    ClusterConfig,
    ComparisonData,
    DPOConfig,
    PPOConfig,
    RewardConfig,
    RewardRole,
    RunConfig,
    SFTConfig,
    TextData,
)
from rlhf_dist.config.validate import validate_dpo, validate_ppo, validate_reward, validate_sft
from rlhf_dist.controller.rundir import RunDir, write_text_atomic
from rlhf_dist.errors import ClusterError, RunError, StoppedByUser, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhf_dist.algo.advantages import Estimator
    from rlhf_dist.cluster.group import WorkerGroup
    from rlhf_dist.cluster.placement import Placement, RoleResources
    from rlhf_dist.controller.loop import Desk
    from rlhf_dist.controller.ppo import PPORoles
    from rlhf_dist.controller.signals import StopSignal
    from rlhf_dist.controller.view import Column
    from rlhf_dist.data.pretraining import TextSampler
    from rlhf_dist.device import Device
    from rlhf_dist.engine.text_reward import TextScorer
    from rlhf_dist.types import Comparisons, Demonstrations

C = TypeVar("C")


def ppo(argv: Sequence[str], default_config: Path) -> int:
    """`launch/ppo_llama.py`. Returns the exit code."""
    return _guarded(lambda: _run_ppo(load_config(PPOConfig, argv, default_config)))


def sft(argv: Sequence[str], default_config: Path) -> int:
    """`launch/sft_llama.py`. Returns the exit code."""
    return _guarded(lambda: _run_sft(load_config(SFTConfig, argv, default_config)))


def reward(argv: Sequence[str], default_config: Path) -> int:
    """`launch/reward_llama.py`. Returns the exit code."""
    return _guarded(lambda: _run_reward(load_config(RewardConfig, argv, default_config)))


def dpo(argv: Sequence[str], default_config: Path) -> int:
    """`launch/dpo_llama.py`. Returns the exit code."""
    return _guarded(lambda: _run_dpo(load_config(DPOConfig, argv, default_config)))


def _guarded(job: Callable[[], None]) -> int:
    """Runs ``job``; whatever a user can do something about becomes one line and its exit code."""
    try:
        job()
        sys.stdout.flush()
    except BrokenPipeError:  # `--help | head`: who read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UserError, ClusterError, StoppedByUser) as error:
        print(f"{type(error).__name__}: {error}" if isinstance(error, ClusterError) else error, file=sys.stderr)
        return error.exit_code
    except RunError as error:
        print(f"error: {error}" + (f"\n{error.detail}" if error.detail else ""), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped at once: the steps since the last checkpoint are lost", file=sys.stderr)
        return StoppedByUser.exit_code
    return 0


@dataclass(frozen=True)
class _Workshop:
    """Where the roles of a run are built."""

    device: Device
    placement: Placement
    run: RunConfig
    cluster: ClusterConfig
    log_dir: Path
    stop: StopSignal

    def group(self, role: str, env: dict[str, str]) -> WorkerGroup:
        """Starts the worker processes of ``role``."""
        from rlhf_dist.cluster.group import WorkerGroup

        return WorkerGroup(
            role, self.placement, self.device, self.log_dir, env, self.run.seed, self.cluster.start_timeout_s
        )


@contextmanager
def _desk(
    run: RunConfig, cluster: ClusterConfig, directory: RunDir, job: str, columns: Sequence[Column], steps: int
) -> Iterator[Callable[[_Workshop], Desk]]:
    """Opens all that a run writes to. Yields what makes the desk once the workshop is there."""
    from rlhf_dist.chatter import redirect_chatter
    from rlhf_dist.controller.loop import Desk
    from rlhf_dist.controller.metrics import MetricsWriter
    from rlhf_dist.controller.trace import Timer
    from rlhf_dist.controller.view import LiveView

    newest = directory.newest_checkpoint() if run.resume else None
    done = newest.step if newest else 0
    if newest is not None:
        directory.rewind(newest.step)  # before the files are opened: it replaces them
    with (
        redirect_chatter(directory.driver_log) as terminal,
        MetricsWriter(
            directory.metrics,
            directory.tensorboard if run.tensorboard else None,
            resumed_after=newest.step if newest else None,
        ) as metrics,
        LiveView(directory.name, job, steps, columns, first_step=done, stream=terminal) as view,
    ):
        timer = Timer(directory.trace, on_phase=view.phase)
        try:
            yield lambda shop: Desk(
                run, directory, metrics, view, timer, shop.stop, shop.placement, cluster.call_timeout_s
            )
        finally:
            timer.save()


@contextmanager
def _workshop(
    run: RunConfig, cluster: ClusterConfig, device: Device, directory: RunDir, roles: Sequence[RoleResources]
) -> Iterator[_Workshop]:
    """A cluster with a place for every role; all is given back at the end."""
    from rlhf_dist.cluster.placement import Placement
    from rlhf_dist.cluster.session import ray_session
    from rlhf_dist.controller.signals import StopSignal

    # In this order: Ray takes SIGTERM for itself when it connects.
    with ray_session(cluster), StopSignal() as stop:
        placement = Placement(roles, device, cluster.placement_timeout_s)
        try:
            yield _Workshop(device, placement, run, cluster, directory.logs.absolute(), stop)
        finally:
            placement.close()


def _open_run(run: RunConfig, config: Any) -> RunDir:
    directory = RunDir.create(run.dir, run.name, resume=run.resume, overwrite=run.overwrite)
    write_text_atomic(directory.config, config_yaml(config))
    return directory


def _finish(directory: RunDir, summary: dict[str, Any]) -> None:
    from rich.console import Console

    from rlhf_dist.controller.report import print_summary, write_report

    report = write_report(directory.root)
    print_summary(summary, Console())
    print(f"report: {report}")


# --- step 1 -------------------------------------------------------------------------------------------------------


def _run_sft(config: SFTConfig) -> None:
    validate_sft(config)
    from rlhf_dist.cluster.placement import role_resources
    from rlhf_dist.cluster.roles import Actor
    from rlhf_dist.controller.loop import run_job
    from rlhf_dist.controller.sft import SFTData, SFTJob, sft_steps
    from rlhf_dist.controller.view import SFT_COLUMNS
    from rlhf_dist.data.demonstrations import load_demonstrations
    from rlhf_dist.data.tokenizer import load_tokenizer
    from rlhf_dist.device import resolve
    from rlhf_dist.engine.policy import ActorEngine

    device, data = resolve(config.run.device), config.data
    model = config.actor.model
    tokenizer = load_tokenizer(model.path, model.trust_remote_code)
    train, held_out = _with_held_out(
        lambda path, split: load_demonstrations(path, split, tokenizer, data.max_tokens, data.truncate), data
    )
    pretrain = None
    if config.sft.pretrain_share:
        beside = config.sft.batch_size * config.sft.pretrain_share
        pretrain, _ = _pretraining_text(config.pretrain, tokenizer, beside, config.run.seed)
    examples = SFTData(train, held_out, pretrain, model.path)
    steps = sft_steps(config, len(train))
    directory = _open_run(config.run, config)
    roles = [role_resources("actor", config.actor.num_workers, config.actor, device)]
    with (
        _desk(config.run, config.cluster, directory, "SFT", SFT_COLUMNS, steps) as make_desk,
        _workshop(config.run, config.cluster, device, directory, roles) as workshop,
    ):
        actor = Actor(_build_one(workshop, "actor", ActorEngine, (config.actor, device, 1.0, steps)))
        desk = make_desk(workshop)
        summary = run_job(SFTJob(config, actor, examples, desk), desk)
    _finish(directory, summary)


def _build_one(workshop: _Workshop, role: str, factory: Callable[..., Any], args: tuple[Any, ...]) -> WorkerGroup:
    from rlhf_dist.cluster.group import wait_built

    group = workshop.group(role, {})
    wait_built([(group, group.build(factory, lambda rank: args, collective=True))], workshop.cluster.start_timeout_s)
    return group


def _pretraining_text(
    text: TextData, tokenizer: PreTrainedTokenizerBase, per_step: float, seed: int
) -> tuple[TextSampler, Demonstrations]:
    """The text that each step learns ``per_step`` examples of (at least one), and what is held out of it."""
    from rlhf_dist.data.holdout import hold_out
    from rlhf_dist.data.pretraining import TextSampler, load_text

    assert text.path is not None, "checked by validate"
    rows = load_text(text.path, text.split, tokenizer, text.max_tokens)
    if text.eval_path is not None:
        held_out = load_text(text.eval_path, text.eval_split, tokenizer, text.max_tokens)
    else:
        rows, held_out = hold_out(rows, text.eval_count, text.path, "pretrain")
    return TextSampler(rows, max(1, round(per_step)), seed), held_out


def _with_held_out(load: Callable[[str, str], Any], data: Any) -> tuple[Any, Any]:
    """Training and held-out rows: from two files, or the last rows of one."""
    from rlhf_dist.data.holdout import hold_out

    rows = load(data.path, data.split)
    if data.eval_path is not None:
        return rows, load(data.eval_path, data.eval_split)
    return hold_out(rows, data.eval_count, data.path)


# --- step 2 -------------------------------------------------------------------------------------------------------


def _run_reward(config: RewardConfig) -> None:
    validate_reward(config)
    from rlhf_dist.cluster.placement import role_resources
    from rlhf_dist.cluster.roles import RewardTrainer
    from rlhf_dist.controller.loop import run_job
    from rlhf_dist.controller.reward_model import RewardData, RewardJob, reward_steps
    from rlhf_dist.controller.view import REWARD_COLUMNS
    from rlhf_dist.data.demonstrations import load_demonstrations
    from rlhf_dist.data.tokenizer import load_tokenizer
    from rlhf_dist.device import resolve
    from rlhf_dist.engine.scalar import RewardTrainerEngine

    device, data = resolve(config.run.device), config.data
    model = config.reward.model
    tokenizer = load_tokenizer(model.path, model.trust_remote_code)

    train, held_out = _comparisons(data, tokenizer)
    demonstrations = None
    if data.demonstrations_path is not None:
        demonstrations = load_demonstrations(
            data.demonstrations_path, data.split, tokenizer, data.max_tokens, data.truncate
        )
    rankings = RewardData(train, held_out, demonstrations, model.path)
    steps = reward_steps(config, len(train))
    directory = _open_run(config.run, config)
    roles = [role_resources("reward", config.reward.num_workers, config.reward, device)]
    with (
        _desk(config.run, config.cluster, directory, "reward model", REWARD_COLUMNS, steps) as make_desk,
        _workshop(config.run, config.cluster, device, directory, roles) as workshop,
    ):
        role = RewardTrainer(_build_one(workshop, "reward", RewardTrainerEngine, (config.reward, device, steps)))
        desk = make_desk(workshop)
        summary = run_job(RewardJob(config, role, rankings, desk), desk)
    _finish(directory, summary)


def _comparisons(data: ComparisonData, tokenizer: PreTrainedTokenizerBase) -> tuple[Comparisons, Comparisons]:
    """Rankings to learn from, further ones included, and held-out ones."""
    from rlhf_dist.data.comparisons import load_comparisons
    from rlhf_dist.types import Comparisons

    def load(path: str, split: str) -> Comparisons:
        return load_comparisons(path, split, tokenizer, data.max_tokens, data.truncate)

    train, held_out = _with_held_out(load, data)
    if data.extra_path is not None:
        train = Comparisons.cat([train, load(data.extra_path, data.split)])
    return train, held_out


# --- DPO ----------------------------------------------------------------------------------------------------------


def _run_dpo(config: DPOConfig) -> None:
    config = resolve_dpo(config)
    validate_dpo(config)
    from rlhf_dist.cluster.group import wait_built
    from rlhf_dist.cluster.placement import role_resources
    from rlhf_dist.cluster.roles import Actor, Reference
    from rlhf_dist.controller.dpo import DPOData, DPOJob, dpo_steps
    from rlhf_dist.controller.loop import run_job
    from rlhf_dist.controller.view import DPO_COLUMNS
    from rlhf_dist.data.tokenizer import load_tokenizer
    from rlhf_dist.device import resolve
    from rlhf_dist.engine.policy import ActorEngine, ReferenceEngine

    device, model = resolve(config.run.device), config.actor.model
    train, held_out = _comparisons(config.data, load_tokenizer(model.path, model.trust_remote_code))
    steps = dpo_steps(config, len(train))
    directory = _open_run(config.run, config)
    resources = [
        role_resources("actor", config.actor.num_workers, config.actor, device),
        role_resources("reference", config.reference.num_workers, config.reference, device),
    ]
    with (
        _desk(config.run, config.cluster, directory, "DPO", DPO_COLUMNS, steps) as make_desk,
        _workshop(config.run, config.cluster, device, directory, resources) as workshop,
    ):
        actor, reference = workshop.group("actor", {}), workshop.group("reference", {})
        actor_args, reference_args = (config.actor, device, 1.0, steps), (config.reference, device, 1.0)
        wait_built(
            [
                (actor, actor.build(ActorEngine, lambda _: actor_args, collective=True)),
                (reference, reference.build(ReferenceEngine, lambda _: reference_args, collective=True)),
            ],
            workshop.cluster.start_timeout_s,
        )
        desk = make_desk(workshop)
        data = DPOData(train, held_out, model.path)
        summary = run_job(DPOJob(config, Actor(actor), Reference(reference), data, desk), desk)
    _finish(directory, summary)


# --- step 3 -------------------------------------------------------------------------------------------------------


def _run_ppo(config: PPOConfig) -> None:
    config = resolve_ppo(config)
    validate_ppo(config)
    from rlhf_dist.controller.loop import run_job
    from rlhf_dist.controller.parity import TOLERANCES
    from rlhf_dist.controller.ppo import PPO
    from rlhf_dist.controller.ppo_job import PPOJob
    from rlhf_dist.controller.view import PPO_COLUMNS
    from rlhf_dist.device import resolve

    device = resolve(config.run.device)
    data = _ppo_data(config)
    directory = _open_run(config.run, config)
    tolerance = config.weights.tolerance
    if tolerance is None:
        tolerance = max(TOLERANCES[device.dtype(name)] for name in (config.rollout.dtype, config.actor.model.dtype))
    with (
        _desk(config.run, config.cluster, directory, "PPO", PPO_COLUMNS, config.ppo.steps) as make_desk,
        _workshop(config.run, config.cluster, device, directory, _ppo_resources(config, device)) as workshop,
    ):
        desk = make_desk(workshop)
        roles = _ppo_roles(config, workshop, [data.tokenizer.eos_token_id])
        ppo = PPO(config, roles, _estimator(config.ppo.advantage), desk.timer, tolerance)
        job = PPOJob(config, ppo, data, desk)
        summary = run_job(job, desk)
    _finish(directory, summary)


def _estimator(name: str) -> Estimator:
    from rlhf_dist.algo.advantages import ESTIMATORS
    from rlhf_dist.data.functions import load_function

    return ESTIMATORS[name] if name in ESTIMATORS else load_function(name)


def _ppo_data(config: PPOConfig) -> Any:
    from rlhf_dist.controller.ppo_job import PPOData
    from rlhf_dist.data.functions import load_function
    from rlhf_dist.data.prompts import load_prompts
    from rlhf_dist.data.tokenizer import load_tokenizer

    model, data, limit = config.actor.model, config.data, config.rollout.max_prompt_tokens
    tokenizer = load_tokenizer(model.path, model.trust_remote_code)
    prompts = load_prompts(data.path, data.split, tokenizer, limit)
    if data.eval_path is not None:
        held_out = load_prompts(data.eval_path, data.eval_split, tokenizer, limit)
    else:
        prompts, held_out = prompts.split_off(data.eval_count)
    judge = load_function(config.judge) if config.judge is not None else None
    _estimator(config.ppo.advantage)
    for source in reward_sources(config).values():
        if source.function is not None:
            load_function(source.function)  # its workers load it for themselves; a mistake in it shows here
    sampler, text = None, None
    if config.pretrain.path is not None:
        samples = config.ppo.prompts_per_step * config.rollout.samples_per_prompt
        per_step = samples * config.ppo.pretrain_per_sample
        sampler, text = _pretraining_text(config.pretrain, tokenizer, per_step, config.run.seed)
    learned = sampler if config.ppo.pretrain_coef else None  # the loss is measured also where it is not trained on
    return PPOData(prompts, held_out, tokenizer, model.path, learned, text, judge)


def _ppo_resources(config: PPOConfig, device: Device) -> list[RoleResources]:
    from rlhf_dist.cluster.placement import role_resources

    scorers = []
    for name, source in reward_sources(config).items():
        scorer = role_resources(_reward_role(name), source.num_workers, source, device)
        if not uses_model(source):  # functions and endpoints need no accelerator
            scorer = replace(scorer, bundle={"CPU": scorer.bundle["CPU"]})
        scorers.append(scorer)
    critic = [role_resources("critic", config.critic.num_workers, config.critic, device)]
    return [
        role_resources("actor", config.actor.num_workers, config.actor, device),
        *(critic if config.ppo.use_critic else []),
        *scorers,
        role_resources("reference", config.reference.num_workers, config.reference, device),
        role_resources("rollout", config.rollout.num_engines, config.rollout, device),
    ]


def _ppo_roles(config: PPOConfig, workshop: _Workshop, stop_tokens: list[int]) -> PPORoles:
    """Starts all workers, lets them load at the same time, and opens the way of the weights."""
    from rlhf_dist.algo.minibatches import steps_per_batch
    from rlhf_dist.cluster import roles
    from rlhf_dist.cluster.group import wait_built
    from rlhf_dist.cluster.weights import WeightSync
    from rlhf_dist.controller.ppo import PPORoles, RewardSource
    from rlhf_dist.engine.policy import ActorEngine, ReferenceEngine
    from rlhf_dist.engine.scalar import CriticEngine
    from rlhf_dist.rollout.vllm_engine import engine_env

    device, temperature = workshop.device, config.rollout.temperature
    samples = config.ppo.prompts_per_step * config.rollout.samples_per_prompt
    total = config.ppo.steps * steps_per_batch(samples, config.ppo.minibatch_size, config.ppo.epochs)
    actor, reference = workshop.group("actor", {}), workshop.group("reference", {})
    critic = workshop.group("critic", {}) if config.ppo.use_critic else None
    values = (
        [(critic, critic.build(CriticEngine, lambda _: (config.critic, device, total), collective=True))]
        if critic is not None
        else []
    )
    sources = reward_sources(config)
    scorers = {name: workshop.group(_reward_role(name), {}) for name in sources}
    rollout = workshop.group("rollout", engine_env(device) if config.rollout.backend == "vllm" else {})
    wait_built(
        [
            (rollout, _build_rollout(config, rollout, stop_tokens)),
            (actor, actor.build(ActorEngine, lambda _: (config.actor, device, temperature, total), collective=True)),
            *values,
            (
                reference,
                reference.build(ReferenceEngine, lambda _: (config.reference, device, temperature), collective=True),
            ),
            *((scorers[name], _build_reward(config, source, scorers[name])) for name, source in sources.items()),
        ],
        workshop.cluster.start_timeout_s,
    )
    policy, engines = roles.Actor(actor), roles.Rollout(rollout)
    return PPORoles(
        policy,
        roles.Critic(critic) if critic is not None else None,
        tuple(RewardSource(name, source.weight, roles.Reward(scorers[name])) for name, source in sources.items()),
        roles.Reference(reference),
        engines,
        WeightSync(policy, engines, config.weights),
        workshop.placement,
    )


def _reward_role(name: str) -> str:
    """What the workers of a source of reward are called."""
    return "reward" if name == MAIN_REWARD else f"reward-{name}"


def _build_reward(config: PPOConfig, source: RewardRole, group: WorkerGroup) -> list[Any]:
    from rlhf_dist.engine.scalar import RewardEngine
    from rlhf_dist.engine.text_reward import TextReward

    if uses_model(source):
        return group.build(RewardEngine, lambda _: (source, group.device), collective=True)
    scorer, tokenizer = partial(_text_scorer, source, _token(source)), config.actor.model.path
    return group.build(
        lambda *args: TextReward(scorer(), *args), lambda rank: (tokenizer, rank, group.size), collective=False
    )


def _token(source: RewardRole) -> str | None:
    """Read here, as the workers' environment may be another, and Ray would show it to whoever looks."""
    return None if source.endpoint_token_env is None else os.environ[source.endpoint_token_env].strip()


def _text_scorer(source: RewardRole, token: str | None) -> TextScorer:
    from rlhf_dist.engine.function_reward import FunctionScorer
    from rlhf_dist.engine.http_reward import HTTPScorer

    if source.function is not None:
        return FunctionScorer(source.function, source.function_timeout_s)
    assert source.endpoint is not None, "checked by validate"
    return HTTPScorer(source.endpoint, source.endpoint_timeout_s, source.endpoint_retries, token)


def _build_rollout(config: PPOConfig, group: WorkerGroup, stop_tokens: list[int]) -> list[Any]:
    match config.rollout.backend:
        case "vllm":
            from rlhf_dist.rollout.vllm_engine import VLLMEngine

            factory: Any = VLLMEngine
        case "hf":
            from rlhf_dist.rollout.hf_engine import HFEngine

            factory = HFEngine
        case other:
            raise UserError(f"rollout.backend={other!r}: expected vllm or hf")
    arguments = (config.actor.model, config.rollout, group.device, stop_tokens)
    return group.build(factory, lambda _: arguments, collective=False)
