"""The rollout engine on vLLM, in the process of the worker that holds it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rlhf_dist.config.schema import ModelConfig, RolloutConfig
from rlhf_dist.device import Device
from rlhf_dist.errors import RunError
from rlhf_dist.plan.share import memory_share
from rlhf_dist.rollout.protocol import TURN_IDS
from rlhf_dist.rollout.requests import Request, RequestEngine
from rlhf_dist.rollout.sampling import Response, sample_seed
from rlhf_dist.rollout.vllm_sleep import SleepMode
from rlhf_dist.types import Residency
from rlhf_dist.weights.transport import Endpoint, ParamInfo

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import RequestOutput

GIB = 1 << 30

# vLLM reports usage to its makers and narrates its start, unless told otherwise. A user's own setting stands.
_QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def engine_env(device: Device) -> dict[str, str]:
    """Environment that the engine's process must be started with: vLLM reads most of it when it is imported."""
    quiet = {name: os.environ.get(name, value) for name, value in _QUIET.items()}
    return {**quiet, **device.vllm_env}


class VLLMEngine(RequestEngine):
    """A RolloutEngine (see `rlhf_dist.rollout.protocol`) on ``vllm.LLM``, whose engine is driven step by step.

    It needs no tokenizer: prompts go in as token ids, and the ids that end a response are an argument. Its
    log-probabilities are those of the sampling distribution: log_softmax(logits / temperature).

    The prefix cache is on where samples share a prompt or go on turn by turn. Requests that are added together share
    what they cache, further turns share it with the earlier ones, and nobody else does (vLLM's cache salt): what a
    sample is must not depend on what was drawn before it.
    """

    def __init__(
        self,
        model: ModelConfig,
        rollout: RolloutConfig,
        device: Device,
        stop_token_ids: Sequence[int],
        seed: int = 0,
        colocated_roles: int = 0,
    ) -> None:
        """Loads the model. Takes seconds.

        Args:
            model: whose architecture and first weights; its dtype is not used, the rollout's is.
            rollout: sizes and limits.
            device: this process's kind of device.
            stop_token_ids: sampling one of these ends a response.
            seed: of what the engine draws without a seed of the sample's own.
            colocated_roles: how many other roles live on its devices; where there are some, it must be able to
                leave them.

        Raises:
            RunError: the process was started without :func:`engine_env`.
        """
        _check_env(device)
        device.load()
        from vllm import LLM

        super().__init__()
        self._rollout = rollout
        self._stop = list(stop_token_ids)
        self._additions = 0  # of requests, so far: what they cache is known by the number of the first turn's
        self._salts: dict[int, str] = {}  # by the sample's id in the first turn
        sleeps = colocated_roles > 0 and device.vllm_sleeps
        arguments = _arguments(model, rollout, device, colocated_roles)
        self._llm: Any = LLM(**arguments, seed=seed, enable_sleep_mode=sleeps)
        self._sleep = SleepMode(self._llm, device.vllm_sleeps_in_parts) if sleeps else None

    def join(self, endpoint: Endpoint, rank: int) -> None:
        """Joins the broadcast group at ``endpoint``: this engine's processes are its ranks from ``rank`` on."""
        self._llm.collective_rpc("rlhf_join", args=(asdict(endpoint), rank))

    def receive(self, parameters: list[ParamInfo], version: int) -> None:
        """Takes one full set of weights, blocks until they serve, drops cached prefixes, and sets the version."""
        self._llm.collective_rpc("rlhf_receive", args=([asdict(info) for info in parameters],))
        self._empty_prefix_cache()
        self._salts.clear()
        self._version = version

    def reside(self, to: Residency) -> None:
        """Sleeps and wakes; where vLLM cannot (on a CPU), or nobody else is on the devices, the engine stays."""
        if self._sleep is not None:
            self._sleep.reside(to)

    def close(self) -> None:
        """Gives memory and sockets back."""
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = self._sleep = None

    def _empty_prefix_cache(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise RunError("vLLM's prefix cache could not be emptied: requests are running")

    def _enqueue(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._check_room(request)
        self._additions += 1
        for request in requests:
            prompt = {"prompt_token_ids": request.tokens, "cache_salt": self._salt(request.sample)}
            self._llm.llm_engine.add_request(str(request.sample), prompt, self._sampling_params(request))

    def _advance(self) -> dict[int, Response]:
        outputs = self._llm.llm_engine.step()
        return {int(output.request_id): _response(output) for output in outputs if output.finished}

    def _drop(self, samples: Sequence[int]) -> None:
        self._llm.llm_engine.abort_request([str(sample) for sample in samples])

    def _check_room(self, request: Request) -> None:
        """RunError where a prompt with its response does not fit the engine's context."""
        context = self._rollout.max_prompt_tokens + self._rollout.max_response_tokens
        if len(request.tokens) + request.options.max_tokens > context:
            raise RunError(
                f"a prompt of {len(request.tokens)} tokens plus {request.options.max_tokens} response tokens exceeds "
                f"the rollout engine's context (rollout.max_prompt_tokens + rollout.max_response_tokens)"
            )

    def _salt(self, sample: int) -> str:
        if sample < TURN_IDS or sample % TURN_IDS not in self._salts:
            self._salts[sample % TURN_IDS] = str(self._additions)
        return self._salts[sample % TURN_IDS]

    def _sampling_params(self, request: Request) -> SamplingParams:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        options = request.options
        return SamplingParams(
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            max_tokens=options.max_tokens,
            seed=sample_seed(options.seed, request.sample) if self._rollout.seed_per_request else None,
            stop_token_ids=self._stop,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )


def _check_env(device: Device) -> None:
    wrong = {name: value for name, value in device.vllm_env.items() if os.environ.get(name) != value}
    if wrong:
        needed = " ".join(f"{name}={value}" for name, value in wrong.items())
        raise RunError(f"the rollout engine's process must be started with {needed} in its environment")


def _arguments(model: ModelConfig, rollout: RolloutConfig, device: Device, colocated_roles: int) -> dict[str, Any]:
    """The arguments of ``vllm.LLM``."""
    eager = rollout.enforce_eager
    arguments: dict[str, Any] = {
        "model": model.path,
        "trust_remote_code": model.trust_remote_code,
        "dtype": device.dtype(rollout.dtype),
        "tensor_parallel_size": rollout.tensor_parallel,
        # Named, as inside a Ray actor vLLM would take Ray for it, and a place of its own for each process.
        "distributed_executor_backend": "mp" if rollout.tensor_parallel > 1 else "uni",
        "enforce_eager": not device.is_accelerator if eager is None else eager,
        "max_model_len": rollout.max_prompt_tokens + rollout.max_response_tokens,
        "max_num_seqs": rollout.max_batch,
        "block_size": rollout.block_size,
        "enable_prefix_caching": rollout.samples_per_prompt > 1 or rollout.environment is not None,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # else the model's own top-k, top-p and stop tokens would change the distribution
        # Of the whole vocabulary: "processed" ones are taken behind top-p and top-k, "raw" ones before the temperature,
        # and the configuration allows only one of the two to be other than plain.
        "logprobs_mode": "raw_logprobs" if _narrowed(rollout) else "processed_logprobs",
        # What weights come in through: vLLM imports it in each process of this engine, and nowhere else.
        "worker_extension_cls": "rlhf_dist.weights.vllm_receiver.WorkerExtension",
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
    }
    if device.is_accelerator:
        arguments["gpu_memory_utilization"] = memory_share(rollout, device.memory_bytes(), colocated_roles)
    else:
        # Of the host's memory this share would be asked for at the start, whoever else is using it; a size is not.
        arguments["kv_cache_memory_bytes"] = int(rollout.memory_gib * GIB)
    return arguments


def _narrowed(rollout: RolloutConfig) -> bool:
    return rollout.top_p < 1 or rollout.top_k > 0


def _response(output: RequestOutput) -> Response:
    sampled = output.outputs[0]
    logprobs: Any = sampled.logprobs
    return Response(list(sampled.token_ids), logprobs.logprobs, sampled.finish_reason == "stop")
