"""The rollout engine: tokens/s, log-probabilities against transformers, and what sleeping and waking does to memory."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_parts.common import FROZEN_BYTES, GIB, Findings, Settings, made_model, run_part, used_bytes
from rlhf_dist.config.schema import ModelConfig, RolloutConfig
from rlhf_dist.controller.parity import TOLERANCES, check_parity
from rlhf_dist.device import CPU
from rlhf_dist.errors import RunError
from rlhf_dist.rollout.protocol import SamplingOptions
from rlhf_dist.types import Prompts, Sequences

# What an engine that sleeps may keep of the device: the context, the libraries' workspaces, recorded graphs.
ASLEEP_GIB = 3.0


@dataclass(frozen=True)
class Load:
    """How much is asked of the engine: so many prompts of so many tokens, and so many tokens of response to each."""

    prompts: int
    prompt_tokens: int
    response_tokens: int

    def draw(self, vocabulary: int) -> Prompts:
        """The prompts."""
        tokens = torch.randint(3, vocabulary, (self.prompts * self.prompt_tokens,))
        lengths = torch.full((self.prompts,), self.prompt_tokens)
        return Prompts(tokens, lengths, torch.arange(self.prompts), torch.arange(self.prompts))

    @property
    def options(self) -> SamplingOptions:
        """How responses are drawn: nothing ends one before its limit."""
        return SamplingOptions(temperature=1.0, max_tokens=self.response_tokens, seed=1)


def open_engine(settings: Settings, folder: Path, load: Load) -> Any:
    """The rollout engine as a role that shares its devices has it."""
    device, model = settings.device, ModelConfig(path=str(folder))
    rollout = RolloutConfig(
        max_prompt_tokens=load.prompt_tokens,
        max_response_tokens=load.response_tokens,
        max_batch=load.prompts,
        memory_utilization=0.5,
        memory_gib=0.0625,
    )
    if settings.rollout == "vllm":
        from rlhf_dist.rollout.vllm_engine import VLLMEngine, engine_env

        os.environ.update(engine_env(device))
        return VLLMEngine(model, rollout, device, [], colocated_roles=1)
    from rlhf_dist.rollout.hf_engine import HFEngine

    return HFEngine(model, rollout, device, [])


class Policy:
    """The trainer's model, whose log-probabilities the engine's are held against."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        from rlhf_dist.models.language import load_policy

        self.place = settings.device.torch_device()
        self.model = load_policy(ModelConfig(path=str(folder)), settings.device).to(self.place).eval()

    @torch.no_grad()
    def logprobs(self, sequences: Sequences) -> Tensor:
        """``[R]`` float32 on CPU, nats, eight rows at a time."""
        from rlhf_dist.models.layout import lay_out

        parts = []
        for rows in torch.arange(len(sequences)).split(8):
            part = sequences.select(rows)
            laid = lay_out(part.tokens, part.lengths, "right", self.place)
            parts.append(self.model(laid, part.tokens, part.response_lengths, 1.0).cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def change(self) -> None:
        """Other weights, far enough away that old ones would be noticed."""
        generator = torch.Generator(self.place).manual_seed(7)
        for parameter in self.model.parameters():
            if parameter.dim() > 1:
                noise = torch.randn(parameter.shape, generator=generator, device=self.place)
                parameter.add_(0.3 * parameter.float().std() * noise)


def check_logprobs(found: Findings, what: str, policy: Policy, sequences: Sequences, tolerance: float) -> None:
    """Notes the gap between engine and trainer, and that it is within the tolerance."""
    logprobs = policy.logprobs(sequences)
    found.figure(f"gap of the log-probabilities, {what}", gap(sequences, logprobs), "nats a token")
    try:
        check_parity(sequences, logprobs, tolerance)
    except RunError as error:
        found.check(False, f"{what}: {error}")


def gap(sequences: Sequences, logprobs: Tensor) -> float:
    """Mean |difference|, nats a token."""
    return float((sequences.rollout_logprobs - logprobs).abs().mean())


def send_weights(engine: Any, policy: Policy) -> None:
    """Brings the policy's weights into the engine of this process, through host memory."""
    from rlhf_dist.weights.groups import TransferPlan
    from rlhf_dist.weights.source import WeightSource

    group = TransferPlan("host", ("actor 0", "rollout 0"), 256 * 2**20, 60.0, None).listen("127.0.0.1", CPU)
    source = WeightSource(policy.model.lm, 256 * 2**20)
    with ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(group.connect)
        engine.join(group.endpoint, 1)
        connecting.result()
        sending = pool.submit(group.send, source.metadata(), source)
        engine.receive(source.metadata(), 1)
        sending.result()
    group.close()


def sleep_and_wake(found: Findings, settings: Settings, engine: Any, policy: Policy, empty: int) -> None:
    """Sends the engine away, wakes it part by part, and brings it other weights. ``empty``: bytes taken without it."""
    awake = used_bytes(settings.device) - empty
    taken = {}
    for state in ("none", "weights"):
        engine.reside(state)
        taken[state] = used_bytes(settings.device) - empty
    policy.change()
    send_weights(engine, policy)
    engine.reside("all")
    taken["all"] = used_bytes(settings.device) - empty
    if not settings.device.is_accelerator:
        return
    found.figure("engine's memory, awake", awake / GIB, "GiB")
    found.figure("engine's memory, asleep", taken["none"] / GIB, "GiB")
    found.figure("engine's memory, woken for the weights", taken["weights"] / GIB, "GiB")
    found.figure("engine's memory, awake again", taken["all"] / GIB, "GiB")
    kept = taken["none"] / GIB
    found.check(kept < ASLEEP_GIB, f"asleep the engine keeps {kept:.2f} GiB of the device, {ASLEEP_GIB:g} are allowed")
    found.check(
        taken["all"] < awake + GIB, f"awake again it takes {(taken['all'] - awake) / GIB:.2f} GiB more than before"
    )


def main(settings: Settings, found: Findings) -> None:
    """Samples, compares, sleeps, wakes, takes other weights, and compares again."""
    device = settings.device
    device.set_current()
    torch.manual_seed(0)
    shape = settings.shape(4 * FROZEN_BYTES)
    folder = made_model(settings, shape)
    load = Load(4, 8, 16) if settings.tiny else Load(128, 128, 256)
    dtype = device.dtype("auto")
    empty = used_bytes(device)
    started = time.perf_counter()
    engine = open_engine(settings, folder, load)
    name = "vLLM" if settings.rollout == "vllm" else "transformers"
    found.figure(f"start of the engine ({name}, Llama {shape})", time.perf_counter() - started, "s")
    prompts = load.draw(320 if settings.tiny else 128256)
    engine.generate(prompts.select([0]), load.options)
    started = time.perf_counter()
    sequences = engine.generate(prompts, load.options)
    seconds = time.perf_counter() - started
    tokens = int(sequences.response_lengths.sum())
    found.figure(
        f"generation of {load.prompts} responses of {load.response_tokens} tokens", tokens / seconds, "tokens/s"
    )
    before = used_bytes(device)
    policy = Policy(settings, folder)
    check_logprobs(found, "as loaded", policy, sequences, TOLERANCES[dtype])
    device.empty_cache()
    sleep_and_wake(found, settings, engine, policy, empty + used_bytes(device) - before)
    again = engine.generate(prompts, load.options)
    check_logprobs(found, "after sleep, wake and other weights", policy, again, TOLERANCES[dtype])
    stale = gap(sequences, policy.logprobs(sequences))
    found.figure("gap of the log-probabilities of the weights before", stale, "nats a token")
    found.check(stale > TOLERANCES[dtype], "the other weights are too near the first ones for this check to tell")
    engine.close()


if __name__ == "__main__":
    sys.exit(run_part(main))
