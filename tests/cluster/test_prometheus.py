"""Which figures of a step become gauges. Ray's own part is tested on a cluster, in tests/pipeline/test_nodes.py."""

from __future__ import annotations

import pytest

from rlhf_dist.cluster import prometheus
from rlhf_dist.controller.metric_table import PPO, metrics_of


class Recorded:
    """In the place of Ray's gauges."""

    values: dict[tuple[str, ...], float] = {}

    def __init__(self, name: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.tag_keys = name, tag_keys

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert tuple(tags) == self.tag_keys
        self.values[(self.name, *tags.values())] = value


@pytest.fixture
def gauges(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prometheus, "Gauge", Recorded)
    monkeypatch.setattr(Recorded, "values", {})
    made = prometheus.RunGauges("mine")
    yield made
    made.close()


def test_a_step_of_ppo_fills_every_gauge_of_a_run(gauges: prometheus.RunGauges) -> None:
    figures = [name for name in metrics_of(PPO) if not name.startswith("time/")]
    gauges.write(3, dict.fromkeys(figures, 0.5) | {"kl/coef": 0.1, "time/train_s": 2.0, "time/train/x_s": 1.0})
    plain = {name for name, tags in prometheus.GAUGES.items() if not tags}
    assert {name for name, *_ in Recorded.values} == {*plain, "rlhf_phase_seconds"}
    assert Recorded.values["rlhf_step", "mine"] == 3
    assert Recorded.values["rlhf_kl_coef", "mine"] == 0.1
    assert [key for key in Recorded.values if key[0] == "rlhf_phase_seconds"] == [
        ("rlhf_phase_seconds", "mine", "train")
    ]


def test_calls_that_wait_are_counted_by_role(gauges: prometheus.RunGauges) -> None:
    gauges.waiting("actor", 2)
    gauges.waiting("critic", 1)
    gauges.waiting("actor", -1)
    assert Recorded.values["rlhf_calls_waiting", "mine", "actor"] == 1
    assert Recorded.values["rlhf_calls_waiting", "mine", "critic"] == 1


def test_a_gauge_that_cannot_be_set_does_not_fail_the_run(
    gauges: prometheus.RunGauges, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise OSError("no agent")

    monkeypatch.setattr(Recorded, "set", broken)
    gauges.write(1, {"kl/coef": 0.1})
    assert [record.getMessage() for record in caplog.records] == ["no gauges for Prometheus: OSError: no agent"]
