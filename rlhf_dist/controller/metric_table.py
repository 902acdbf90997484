"""Every figure that a run writes to metrics.jsonl: its title, its unit, what it is, and which runs have it.

The report takes its titles and units from here, and docs/metrics.md its tables (tools/metrics_page.py). A test holds
the names equal to those that the trainers write; the suite's real runs are held against :func:`unknown_metrics`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

SFT, REWARD, DPO, PPO = "sft", "reward", "dpo", "ppo"
_ALL = (SFT, REWARD, DPO, PPO)
_STEPWISE = (SFT, REWARD, DPO)  # one optimizer step a step
_RANKED = (REWARD, DPO)


@dataclass(frozen=True)
class Metric:
    """One figure of metrics.jsonl.

    Attributes:
        name: its key in a line; `NAME` in it stands for the name of a reward source.
        title: what a chart of it is called.
        unit: of its values, or what they are.
        meaning: what it is and how it is computed, in one sentence for a table.
        jobs: the jobs that have it, by the names of their commands.
        phase: the phase of a step that yields it; "step" of what belongs to the whole step.
        when: what has to be so for a line to hold it; empty where every line of these jobs does.
    """

    name: str
    title: str
    unit: str
    meaning: str
    jobs: tuple[str, ...]
    phase: str
    when: str = ""

    @property
    def always(self) -> bool:
        """Whether every line of its jobs holds it."""
        return not self.when

    def source_in(self, name: str) -> str:
        """What stands in ``name``, a key of metrics.jsonl, where the metric's own has `NAME`; empty where it has none.

        ValueError if ``name`` is another metric's.
        """
        found = re.fullmatch(re.escape(self.name).replace("NAME", "(.+)"), name)
        if found is None:
            raise ValueError(f"{name} is not {self.name}")
        return "".join(found.groups())


_REWARDS = (
    Metric(
        "reward/score_mean",
        "Learned reward",
        "mean of a step",
        "mean over the step's responses of the weighted sum of the scores of all sources, as they come from them: "
        "before normalization, clipping and penalties; of a process reward model a response's score is the sum of its "
        "steps' scores",
        (PPO,),
        "score",
    ),
    Metric(
        "reward/score_std",
        "Spread of the learned reward",
        "standard deviation in a step",
        "standard deviation (population) of these scores over the step's responses",
        (PPO,),
        "score",
    ),
    Metric(
        "reward/NAME_mean",
        "Score of NAME",
        "mean of a step",
        "mean score of one source, without its weight: `reward/main_mean` of the section `reward`, "
        "`reward/polite_mean` of `rewards.polite`",
        (PPO,),
        "score",
        "there are two sources or more (`rewards.NAME`)",
    ),
    Metric(
        "reward/total_mean",
        "Reward after the penalties",
        "mean of a step",
        "mean over responses of the sum of their tokens' rewards, which the advantages are computed from: the score "
        "after `ppo.normalize_scores` and `ppo.score_clip`, less `ppo.missing_eos_penalty` and "
        "`ppo.overlong_penalty`, less `kl/coef` times the "
        "KL where `ppo.kl.place=reward`, after `ppo.whiten_rewards`",
        (PPO,),
        "advantage",
    ),
)

_KL_AND_RESPONSES = (
    Metric(
        "kl/sequence_mean",
        "KL to the reference",
        "nats a sequence",
        "mean over responses of the sum over sampled tokens of log p - log q (the estimator k1); p is the policy that "
        "sampled, q the reference, both as the trainer computes them",
        (PPO,),
        "score",
    ),
    Metric(
        "kl/coef",
        "KL coefficient",
        "reward a nat",
        "coefficient beta of the KL penalty in this step: `ppo.kl.coef`, or what `ppo.kl.controller=adaptive` has made "
        "of it",
        (PPO,),
        "advantage",
    ),
    Metric(
        "response/length_mean",
        "Response length",
        "tokens",
        "mean number of tokens of a response, an environment's included",
        (PPO,),
        "rollout",
    ),
    Metric(
        "response/finished",
        "Finished responses",
        "share that ends before the length limit",
        "share of responses that end with the end-of-sequence token; with an environment, whose last turn does",
        (PPO,),
        "rollout",
    ),
    Metric(
        "rollout/logprob_gap",
        "Rollout against actor",
        "nats, log-probability gap",
        "mean over sampled tokens of |log p(engine) - log p(actor)|, at the weights that sampled; with "
        "`ppo.old_logprobs=rollout` over those of the first minibatch",
        (PPO,),
        "score",
    ),
    Metric(
        "rollout/ratio_max",
        "Rollout against actor, at the most",
        "largest ratio, either way",
        "largest ratio of the two probabilities of a sampled token, either way: "
        "exp(max |log p(engine) - log p(actor)|)",
        (PPO,),
        "score",
    ),
    Metric(
        "rollout/kl",
        "KL of engine and actor",
        "nats a token",
        "mean over sampled tokens of the estimator k3 of KL(engine, actor)",
        (PPO,),
        "score",
    ),
    Metric(
        "rollout/staleness_max",
        "Staleness of the samples",
        "versions, at the most",
        "how many versions the weights that sampled were behind the actor's when the step began: the largest of the "
        "batch, never above `rollout.staleness`",
        (PPO,),
        "score",
        "`rollout.staleness` is not 0",
    ),
    Metric(
        "weights/version",
        "Version of the weights",
        "updates",
        "how many updates of the actor have reached the engines; `ppo.critic_warmup_steps` add none",
        (PPO,),
        "sync",
    ),
)

_CRITIC = "there is a critic (`ppo.advantage=gae`, or `ppo.use_critic=true`)"

_ACTOR_AND_CRITIC = (
    Metric(
        "loss/policy",
        "Policy loss",
        "clipped surrogate",
        "mean over the step's minibatches of -min(r A, clip(r, 1 - `ppo.clip`, 1 + `ppo.clip_high`) A), averaged over "
        "tokens as `ppo.aggregation` says; r is the ratio of the new probability to that at sampling, A the advantage",
        (PPO,),
        "train",
    ),
    Metric(
        "policy/clip_fraction",
        "Clipped ratios",
        "share of tokens",
        "share of trained tokens whose ratio was outside of the clipping range, over all minibatches and epochs",
        (PPO,),
        "train",
    ),
    Metric(
        "policy/approx_kl",
        "KL of a step's update",
        "nats a token",
        "mean over trained tokens of the estimator k3 of the KL between the policy that sampled and the one that is "
        "trained, over the step's updates",
        (PPO,),
        "train",
    ),
    Metric(
        "policy/entropy",
        "Entropy",
        "nats a token",
        "mean over trained tokens of -sum p log p over the vocabulary, at `rollout.temperature`; in a step of "
        "`ppo.critic_warmup_steps`, the mean of -log p of the sampled tokens",
        (PPO,),
        "train",
    ),
    Metric(
        "policy/grad_norm",
        "Gradient norm of the actor",
        "before clipping",
        "mean over the step's optimizer steps of the global norm of the actor's gradient, before "
        "`actor.optim.grad_clip`",
        (PPO,),
        "train",
    ),
    Metric(
        "policy/lr",
        "Learning rate of the actor",
        "of the last optimizer step",
        "the actor's learning rate in the step's last optimizer step; 0 in a step of `ppo.critic_warmup_steps`",
        (PPO,),
        "train",
    ),
    Metric(
        "loss/kl",
        "KL in the loss",
        "nats a token",
        "mean over trained tokens of the KL to the reference, as `ppo.kl.estimator` has it, before its coefficient",
        (PPO,),
        "train",
        "`ppo.kl.place=loss`",
    ),
    Metric(
        "loss/pretrain",
        "Loss on pretraining text",
        "nats a token",
        "cross-entropy of the step's pretraining text (PPO-ptx), before `ppo.pretrain_coef`",
        (PPO,),
        "train",
        "`ppo.pretrain_coef` is above 0",
    ),
    Metric(
        "loss/value",
        "Value loss",
        "squared error / 2",
        "mean over sampled tokens of half the squared error of the critic's values, or of the clipped values where "
        "that is larger (`ppo.value_clip`)",
        (PPO,),
        "train",
        _CRITIC,
    ),
    Metric(
        "value/explained_variance",
        "Explained variance",
        "of the returns, by the critic",
        "1 - var(returns - values) / var(returns) over sampled tokens, with the values before this step's training",
        (PPO,),
        "advantage",
        _CRITIC,
    ),
    Metric(
        "value/clip_fraction",
        "Clipped values",
        "share of tokens",
        "share of sampled tokens whose clipped error was the larger one",
        (PPO,),
        "train",
        _CRITIC,
    ),
    Metric(
        "value/grad_norm",
        "Gradient norm of the critic",
        "before clipping",
        "mean over the step's optimizer steps of the global norm of the critic's gradient, before "
        "`critic.optim.grad_clip`",
        (PPO,),
        "train",
        _CRITIC,
    ),
    Metric(
        "value/lr",
        "Learning rate of the critic",
        "of the last optimizer step",
        "the critic's learning rate in the step's last optimizer step",
        (PPO,),
        "train",
        _CRITIC,
    ),
)

_SUPERVISED = (
    Metric(
        "loss/sft",
        "Loss",
        "nats a token",
        "cross-entropy of the batch's answers, a mean over their tokens, with the pretraining text of "
        "`sft.pretrain_share`; before the step's update",
        (SFT,),
        "train",
    ),
    Metric(
        "loss/reward",
        "Loss",
        "nats a prompt",
        "mean over prompts of the mean over their pairs of -log sigmoid(score of the better answer - score of the "
        "worse one); before the step's update",
        (REWARD,),
        "train",
    ),
    Metric(
        "loss/dpo",
        "Loss",
        "nats a prompt",
        "the same with implicit rewards: an answer's is `dpo.beta` times log(p / q), p the policy, q the reference; "
        "with `dpo.label_smoothing`",
        (DPO,),
        "train",
    ),
    Metric(
        "accuracy/pair",
        "Pair accuracy",
        "share of pairs ranked right",
        "share of the batch's pairs whose better answer has the higher score, or implicit reward (DPO: equal ones "
        "count one half); before the step's update",
        _RANKED,
        "train",
    ),
    Metric(
        "reward/margin",
        "Margin",
        "implicit reward, better less worse",
        "mean over the batch's pairs of the better answer's implicit reward less the worse one's; before the step's "
        "update",
        (DPO,),
        "train",
    ),
    Metric(
        "optim/lr",
        "Learning rate",
        "",
        "the learning rate of the step",
        _STEPWISE,
        "train",
    ),
    Metric(
        "optim/grad_norm",
        "Gradient norm",
        "before clipping",
        "global norm of the step's gradient, before `optim.grad_clip`",
        _STEPWISE,
        "train",
    ),
)

_EVALUATED = "the step was evaluated (`run.eval_every`)"

_EVALUATIONS = (
    Metric(
        "eval/loss",
        "Held-out loss",
        "nats",
        "the loss over the held-out rows: of SFT nats a token, of a reward model and DPO nats a prompt",
        _STEPWISE,
        "evaluate",
        _EVALUATED,
    ),
    Metric(
        "eval/accuracy",
        "Held-out pair accuracy",
        "share of pairs ranked right",
        "`accuracy/pair` over the held-out rankings",
        _RANKED,
        "evaluate",
        _EVALUATED,
    ),
    Metric(
        "eval/score_mean",
        "Held-out reward",
        "mean score",
        "`reward/score_mean` over one response to each held-out prompt, with the same random numbers each time",
        (PPO,),
        "evaluate",
        _EVALUATED,
    ),
    Metric(
        "eval/judge_mean",
        "Judge",
        "held out, independent scorer",
        "mean score of the same responses by the function that `judge` names",
        (PPO,),
        "evaluate",
        f"{_EVALUATED}, and there is a `judge`",
    ),
    Metric(
        "eval/distinct_2",
        "Distinct-2",
        "held out, share of bigrams",
        "different word bigrams over all word bigrams of these responses (arXiv 1510.03055)",
        (PPO,),
        "evaluate",
        _EVALUATED,
    ),
    Metric(
        "eval/kl_sequence_mean",
        "Held-out KL to the reference",
        "nats a sequence",
        "`kl/sequence_mean` of these responses",
        (PPO,),
        "evaluate",
        _EVALUATED,
    ),
    Metric(
        "eval/pretrain_loss",
        "Held-out loss on pretraining text",
        "nats a token",
        "cross-entropy of the actor on the held-out pretraining text, a mean over its tokens",
        (PPO,),
        "evaluate",
        f"{_EVALUATED}, and there is a `pretrain.path`",
    ),
)


def _phase(name: str, what: str, jobs: tuple[str, ...], when: str = "") -> Metric:
    return Metric(f"time/{name}_s", f"Time of {name}", "seconds", what, jobs, name.partition("/")[0], when)


_TIMES = (
    Metric(
        "throughput/tokens_per_s",
        "Throughput",
        "tokens a second",
        "tokens of prompts and responses of the step, each counted once, over `time/step_s`",
        _ALL,
        "step",
    ),
    Metric(
        "time/step_s",
        "Time of a step",
        "seconds",
        "the whole step, with its evaluation, but without its checkpoint",
        _ALL,
        "step",
    ),
    _phase("rollout", "the engines sample", (PPO,)),
    Metric(
        "time/overlap_s",
        "Time sampled ahead",
        "seconds",
        "in which the engines sampled later batches while this one was scored and learned from",
        (PPO,),
        "step",
        "`rollout.staleness` is not 0",
    ),
    _phase("score", "PPO: actor, critic, reference and rewards score; DPO: the reference does", (DPO, PPO)),
    _phase("advantage", "rewards, advantages and returns, on the controller", (PPO,)),
    _phase("train", "all optimizer steps of the step", _ALL),
    _phase(
        "sync",
        "the new weights go to the engines",
        (PPO,),
        "the actor was trained in the step, and the engines are due to get its weights",
    ),
    _phase("evaluate", "the evaluation of the step, its texts and the judge included", _ALL, _EVALUATED),
    _phase("evaluate/held-out", "the part of it that the workers do", _ALL, _EVALUATED),
)

#: All of them, by their subject.
GROUPS: dict[str, tuple[Metric, ...]] = {
    "Rewards": _REWARDS,
    "KL, responses and rollout": _KL_AND_RESPONSES,
    "Actor and critic": _ACTOR_AND_CRITIC,
    "SFT, reward model and DPO": _SUPERVISED,
    "Evaluation": _EVALUATIONS,
    "Time": _TIMES,
}

#: The same by their names.
METRICS: dict[str, Metric] = {metric.name: metric for group in GROUPS.values() for metric in group}

_OF_SOURCES = {name: re.compile(re.escape(name).replace("NAME", ".+")) for name in METRICS if "NAME" in name}


def metrics_of(job: str, *, always: bool = False) -> tuple[str, ...]:
    """The names of what a job's lines may hold; with ``always``, of what every line of it holds.

    Args:
        job: "sft", "reward", "dpo" or "ppo".
        always: leaves out what depends on the configuration or the step.
    """
    return tuple(m.name for m in METRICS.values() if job in m.jobs and (m.always or not always))


def metric_named(name: str) -> Metric | None:
    """The metric of a key of metrics.jsonl, `reward/NAME_mean` for that of any source; None of one that is unknown."""
    if name in METRICS:
        return METRICS[name]
    return next((METRICS[known] for known, pattern in _OF_SOURCES.items() if pattern.fullmatch(name)), None)


def unknown_metrics(names: Iterable[str]) -> set[str]:
    """Those of the keys of a line of metrics.jsonl that this table does not have; `step` is none of them."""
    return {name for name in names if name != "step" and metric_named(name) is None}
