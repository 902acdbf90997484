"""What the engine's process must find in its environment."""

import pytest

from rlhf_dist.config.schema import ModelConfig
from rlhf_dist.device import CPU, NPU
from rlhf_dist.errors import RunError
from rlhf_dist.rollout.vllm_engine import VLLMEngine, engine_env
from tests.rollout.engines import EOS, ROLLOUT


def test_it_holds_the_devices_variables_and_sends_no_usage_statistics(monkeypatch):
    monkeypatch.delenv("VLLM_NO_USAGE_STATS", raising=False)
    for device in (CPU, NPU):
        environment = engine_env(device)
        assert device.vllm_env.items() <= environment.items()
        assert environment["VLLM_NO_USAGE_STATS"] == environment["VLLM_DO_NOT_TRACK"] == "1"


def test_a_users_log_level_stands(monkeypatch):
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    assert engine_env(CPU)["VLLM_LOGGING_LEVEL"] == "DEBUG"


def test_an_engine_started_without_it_says_what_is_missing(monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    with pytest.raises(RunError, match=r"must be started with .*VLLM_ENABLE_V1_MULTIPROCESSING=0"):
        VLLMEngine(ModelConfig(path="nowhere"), ROLLOUT, CPU, [EOS])
