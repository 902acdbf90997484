"""What tests of rollout engines share: an engine in a process of its own, and what transformers says of its output."""

import multiprocessing
import os
import traceback
from concurrent.futures import ThreadPoolExecutor

import torch
from transformers import AutoModelForCausalLM

from rlhf_dist.config.schema import ModelConfig, RolloutConfig
from rlhf_dist.device import CPU
from rlhf_dist.types import Prompts
from rlhf_dist.weights.source import WeightSource
from rlhf_dist.weights.transport import BroadcastGroup
from tests.processes import process

EOS = 2
ROLLOUT = RolloutConfig(max_prompt_tokens=12, max_response_tokens=20, memory_gib=0.0625, max_batch=8)


def prompts(count, seed=0, first_id=0, vocabulary=320):
    """``count`` prompts of 1 to 8 random tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (count,), generator=generator)
    tokens = torch.randint(3, vocabulary, (int(lengths.sum()),), generator=generator)
    return Prompts(tokens, lengths, torch.arange(count) + first_id, torch.arange(count) + 100)


def load(folder):
    """transformers' model of a folder, float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@torch.no_grad()
def reference_logprobs(folder, sequences, temperature):
    """transformers' log-probabilities ``[R]`` of the response tokens, one sequence at a time, no padding, no cache."""
    model = load(folder)
    values = []
    for prompt, response in zip(sequences.prompt_lists(), sequences.response_lists(), strict=True):
        logits = model(torch.tensor([prompt + response])).logits[0].float()
        logprobs = (logits / (temperature or 1.0)).log_softmax(-1)
        values += [logprobs[len(prompt) - 1 + i, token] for i, token in enumerate(response)]
    return torch.stack(values)


def serve(connection, kind, folder, rollout, device):
    """The process of a :class:`RemoteEngine`."""
    torch.set_num_threads(1)
    model = ModelConfig(path=str(folder))
    if kind == "vllm":
        from rlhf_dist.rollout.vllm_engine import VLLMEngine as Engine
    else:
        from rlhf_dist.rollout.hf_engine import HFEngine as Engine

    class Counting(Engine):
        """It also says how many tokens of the last batch's prompts vLLM had in its cache."""

        def cached_tokens(self):
            return self._cached

        def generate(self, *arguments):
            core, outputs = self._llm.llm_engine, []
            step = core.step
            core.step = lambda: outputs.append(step()) or outputs[-1]
            try:
                return super().generate(*arguments)
            finally:
                core.step = step
                self._cached = [output.num_cached_tokens for each in outputs for output in each]

    try:
        engine = (Counting if kind == "vllm" else Engine)(model, rollout, device, [EOS])
        connection.send(("ready", None))
        while True:
            method, arguments = connection.recv()
            connection.send(("done", getattr(engine, method)(*arguments)))
            if method == "close":
                return
    except Exception:
        connection.send(("failed", traceback.format_exc()))


class RemoteEngine:
    """An engine in a process of its own, called by name."""

    def __init__(self, kind, folder, environment, rollout=ROLLOUT, device=CPU):
        self._connection, theirs = multiprocessing.Pipe()
        before = dict(os.environ)
        os.environ.update(environment)
        try:
            self._process = process(serve, theirs, kind, folder, rollout, device, fork=not device.is_accelerator)
            self._process.daemon = rollout.tensor_parallel == 1  # one that has processes of its own may not be
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        self._answer(180)

    def call(self, method, *arguments, timeout=60):
        self._connection.send((method, arguments))
        return self._answer(timeout)

    def _answer(self, timeout):
        assert self._connection.poll(timeout), "the engine's process does not answer"
        status, value = self._connection.recv()
        assert status != "failed", value
        return value

    def stop(self):
        self._process.terminate()
        self._process.join(timeout=30)


def sender_to(engines, bucket_bytes=50_000, timeout_s=30.0, processes=1):
    """This process's end of a broadcast group that all ``engines`` have joined, each of so many ``processes``."""
    members = ["actor 0", *(f"rollout {i}.{part}" for i in range(len(engines)) for part in range(processes))]
    sender = BroadcastGroup.listen("127.0.0.1", members, CPU, bucket_bytes, timeout_s)
    with ThreadPoolExecutor() as pool:
        joins = [
            pool.submit(engine.call, "join", sender.endpoint, 1 + number * processes)
            for number, engine in enumerate(engines)
        ]
        sender.connect()
        for join in joins:
            join.result()
    return sender


def push(sender, engines, folder, version):
    """Sends the weights of the model in ``folder`` to all ``engines``."""
    source = WeightSource(load(folder), 1 << 20)
    with ThreadPoolExecutor() as pool:
        receives = [pool.submit(engine.call, "receive", source.metadata(), version) for engine in engines]
        sender.send(source.metadata(), source)
        for receive in receives:
            receive.result()
