"""Carrying the actor's weights to the rollout engines."""

from __future__ import annotations

from rlhf_dist.cluster.calls import Call, run_calls, same_args
from rlhf_dist.cluster.roles import Actor, Rollout
from rlhf_dist.config.schema import WeightsConfig


class WeightSync:
    """The broadcast group of the actor's first worker and all engines: opened once, used after every step.

    One push is one call to each worker and each engine, whatever the number of parameters: the actor's workers
    gather and broadcast bucket after bucket, while the engines receive and load.

    Args:
        actor: whose weights.
        rollout: who gets them.
        config: bucket size and deadline.
    """

    def __init__(self, actor: Actor, rollout: Rollout, config: WeightsConfig) -> None:
        self._actor, self._rollout, self._timeout_s = actor.group, rollout.group, config.timeout_s
        host = self._actor.host
        members = [self._actor.worker_names[0], *self._rollout.worker_names]
        arguments = same_args(self._actor, host, members, config.bucket_mb * 2**20, config.timeout_s)
        opened: Call[list] = Call(self._actor, "open_weights", arguments, list)
        endpoint, self._parameters = run_calls([opened], self._timeout_s)[0][0]
        joining: Call[None] = Call(
            self._rollout, "join", [(endpoint, rank + 1) for rank in range(self._rollout.size)], _nothing
        )
        connecting: Call[None] = Call(self._actor, "connect_weights", same_args(self._actor), _nothing)
        run_calls([joining, connecting], self._timeout_s)

    def push(self, version: int) -> None:
        """Brings the actor's weights of now to every engine, where they count as ``version``.

        Raises:
            RunError: an engine or actor worker did not take part in time, or failed; it is named.
        """
        sending: Call[None] = Call(self._actor, "send_weights", same_args(self._actor), _nothing)
        receiving: Call[None] = Call(
            self._rollout, "receive", same_args(self._rollout, self._parameters, version), _nothing
        )
        run_calls([receiving, sending], self._timeout_s)


def _nothing(_: list) -> None:
    return None
