"""Sending the actor's weights to the rollout engines."""

from __future__ import annotations

from rlhf_dist.cluster.calls import call_all, call_each, nothing, run_calls
from rlhf_dist.cluster.placement import Placement
from rlhf_dist.cluster.roles import Actor, Rollout
from rlhf_dist.cluster.scheduler import Scheduler
from rlhf_dist.config.parsing import port_range
from rlhf_dist.config.schema import ClusterConfig, WeightsConfig
from rlhf_dist.engine.policy import ActorEngine
from rlhf_dist.rollout.protocol import RolloutEngine
from rlhf_dist.weights.groups import TransferPlan


class WeightSync:
    """The group of the actor's workers and all engines: opened once, used after every step.

    One push is one call to each worker and each engine, whatever the number of parameters: the actor's workers
    gather and send bucket after bucket, while the engines receive and load.

    Args:
        actor: sends its weights.
        rollout: receives them.
        scheduler: knows whether they share devices, and makes room for the transfer.
        tensor_parallel: processes of an engine.
        config: the way, the bucket size and the deadline.
        cluster: the ports.
    """

    def __init__(
        self,
        actor: Actor,
        rollout: Rollout,
        scheduler: Scheduler,
        tensor_parallel: int,
        config: WeightsConfig,
        cluster: ClusterConfig,
    ) -> None:
        self._actor, self._rollout, self._timeout_s = actor.group, rollout.group, config.timeout_s
        self._residents, self._version = scheduler.residents, 0
        engines = _processes(self._rollout.worker_names, tensor_parallel)
        transport = self._transport(scheduler.placement, config.transport)
        senders = self._actor.worker_names if transport == "shared" else self._actor.worker_names[:1]
        members = (*senders, *engines)
        plan = TransferPlan(transport, members, config.bucket_mb * 2**20, config.timeout_s, port_range(cluster.ports))
        self._make_room()
        opened = call_all(self._actor, ActorEngine.open_weights, self._actor.host, plan)
        answer = opened.start().wait(self._timeout_s)
        assert answer is not None, "the first worker is the one that listens"
        endpoint, self._parameters = answer
        ranks = [len(senders) + rank * tensor_parallel for rank in range(self._rollout.size)]
        joining = call_each(self._rollout, RolloutEngine.join, [(endpoint, rank) for rank in ranks], nothing)
        connecting = call_all(self._actor, ActorEngine.connect_weights, endpoint)
        run_calls([joining, connecting], self._timeout_s)
        self._residents.on_return(self._rollout, lambda: self.push(self._version))

    def push(self, version: int) -> None:
        """Sends the actor's current weights to every engine, as ``version``.

        Raises:
            RunError: an engine or actor worker did not take part in time, or failed; it is named.
        """
        self._make_room()
        sending = call_all(self._actor, ActorEngine.send_weights)
        receiving = call_all(self._rollout, RolloutEngine.receive, self._parameters, version)
        run_calls([receiving, sending], self._timeout_s)
        self._version = version

    def _make_room(self) -> None:
        self._residents.bring({self._actor: "weights", self._rollout: "weights"}, self._timeout_s)

    def _transport(self, placement: Placement, wanted: str) -> str:
        """What `weights.transport` comes to where actor and engines live; config/validate.py refuses what cannot be."""
        actor, rollout = self._actor.role, self._rollout.role
        if wanted != "auto":
            return wanted
        if not placement.shares_devices(actor, rollout):
            return "collective"
        return "shared" if placement.same_slots(actor, rollout) else "host"


def _processes(engines: list[str], tensor_parallel: int) -> list[str]:
    """Names of all processes of the engines."""
    if tensor_parallel == 1:
        return list(engines)
    return [f"{engine}.{part}" for engine in engines for part in range(tensor_parallel)]
