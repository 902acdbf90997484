"""When the engines' weights are compared with the actor's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlhf_dist.config.schema import PPOConfig
from rlhf_dist.controller.ppo import PPO, RewardSource
from rlhf_dist.controller.trace import Timer
from rlhf_dist.errors import RunError
from rlhf_dist.types import Prompts, Sequences

ENGINES, ACTOR = torch.tensor([-1.0, -1.0]), torch.tensor([-2.0, -1.0])  # nats; they disagree on the first token


class Compared(Exception):
    """The step went on to what comes after the comparison."""


@contextmanager
def together(timeout_s: float) -> Iterator[SimpleNamespace]:
    """Roles answer at once here."""
    yield SimpleNamespace(add=lambda answer: SimpleNamespace(value=answer))


def ppo(verify_every: int, engines: torch.Tensor = ENGINES) -> PPO:
    """PPO in a new process, on two sequences of one token each; what follows the scoring raises."""
    config = PPOConfig()
    config.weights.verify_every = verify_every
    two = torch.ones(2, dtype=torch.int64)
    sampled = Sequences(torch.arange(4), two, two, engines, two.bool(), two.bool(), two * 0, two, two)
    roles: Any = SimpleNamespace(
        rollout=SimpleNamespace(sample_each=lambda *_: iter([sampled])),
        actor=SimpleNamespace(logprobs=lambda _: ACTOR),
        reference=SimpleNamespace(logprobs=lambda _: ACTOR),
        critic=None,
        rewards=(RewardSource("reward", 1.0, SimpleNamespace(token_scores=lambda _: torch.zeros(2))),),  # type: ignore[arg-type]
        scheduler=SimpleNamespace(run=lambda call, timeout_s: call, together=together),
    )

    def estimate(*_: Any) -> Any:
        raise Compared

    return PPO(config, roles, estimate, None, Timer(), 1e-3)


def step(made: PPO, number: int) -> None:
    two = torch.ones(2, dtype=torch.int64)
    sampled = made.generate(Prompts(torch.arange(2), two, two, two))
    made.learn(number, made.collect(number, sampled), None)


@pytest.mark.parametrize("number", [1, 7])
@pytest.mark.parametrize("verify_every", [0, 50])
def test_the_first_transfer_is_always_checked_that_of_a_resumed_run_too(number: int, verify_every: int) -> None:
    with pytest.raises(RunError, match="do not hold the actor's weights"):
        step(ppo(verify_every), number)


def test_afterwards_it_is_checked_every_so_many_steps() -> None:
    made = ppo(10, engines=ACTOR)
    with pytest.raises(Compared):
        step(made, 7)
    made.roles.rollout.sample_each = ppo(10).roles.rollout.sample_each  # type: ignore[method-assign]
    with pytest.raises(Compared):
        step(made, 8)
    with pytest.raises(RunError, match="do not hold the actor's weights"):
        step(made, 10)


def with_the_engines_logprobs(engines: torch.Tensor) -> tuple[PPO, list[int]]:
    """PPO whose old log-probabilities are the engines', and how often the actor was asked for its own."""
    made, asked = ppo(10, engines), [0]
    made.config.ppo.old_logprobs = "rollout"

    def logprobs(_: Sequences) -> torch.Tensor:
        asked[0] += 1
        return ACTOR

    made.roles.actor.logprobs = logprobs  # type: ignore[assignment, method-assign]
    return made, asked


def test_with_old_logprobs_of_the_rollout_the_actor_is_asked_for_the_check_alone() -> None:
    two = torch.ones(2, dtype=torch.int64)
    engines = ACTOR + 1e-4
    made, asked = with_the_engines_logprobs(engines)
    counts = []
    for number in (1, 2, 9, 10):
        experience = made.collect(number, made.generate(Prompts(torch.arange(2), two, two, two)))
        assert torch.equal(experience.logprobs, engines)  # in checked steps too, so that a resumed run is the same
        counts.append(asked[0])
    assert counts == [1, 1, 1, 2]


def test_with_old_logprobs_of_the_rollout_wrong_weights_are_still_found() -> None:
    made, _ = with_the_engines_logprobs(ENGINES)
    with pytest.raises(RunError, match="do not hold the actor's weights"):
        step(made, 1)
