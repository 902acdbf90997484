"""A Python function in the reward model's place."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout

import torch
from torch import Tensor

from rlhf_dist.data.functions import load_function
from rlhf_dist.data.tokenizer import load_tokenizer
from rlhf_dist.errors import RunError
from rlhf_dist.models.layout import balanced_shards
from rlhf_dist.types import Sequences


class FunctionReward:
    """One worker's share of the scoring by ``function(prompts: list[str], responses: list[str]) -> list[float]``.

    Args:
        function: "package.module:function" or "path/file.py:function".
        timeout_s: seconds that one call may take.
        tokenizer_path: turns tokens back into the texts that the function gets, special tokens left out.
        rank: this worker's.
        world: number of workers.
    """

    def __init__(self, function: str, timeout_s: float, tokenizer_path: str, rank: int, world: int) -> None:
        self.name, self.function, self.timeout_s = function, load_function(function), timeout_s
        self.thread = ThreadPoolExecutor(1)
        self.tokenizer = load_tokenizer(tokenizer_path)
        self.rank, self.world = rank, world

    def scores(self, sequences: Sequences) -> Tensor:
        """This worker's rows' scores, float32.

        Raises:
            RunError: the function gave another number of scores, or one that is not finite; the text shows which.
        """
        mine = sequences.select(balanced_shards(sequences.lengths, self.world)[self.rank])
        if len(mine) == 0:
            return torch.zeros(0)
        decode = self.tokenizer.batch_decode
        prompts = decode(mine.prompt_lists(), skip_special_tokens=True)
        responses = decode(mine.response_lists(), skip_special_tokens=True)
        scores = self._ask(prompts, responses)
        if len(scores) != len(responses):
            raise RunError(f"reward function {self.name} gave {len(scores)} scores for {len(responses)} responses")
        for score, response in zip(scores, responses, strict=True):
            if not math.isfinite(score):
                raise RunError(f"reward function {self.name} gave {score} for the response {response!r}")
        return torch.tensor(scores)

    def _ask(self, prompts: list[str], responses: list[str]) -> list[float]:
        asked = self.thread.submit(self.function, prompts, responses)
        try:
            return [float(score) for score in asked.result(self.timeout_s)]
        except FutureTimeout as error:
            raise RunError(
                f"reward function {self.name} gave no scores of {len(responses)} responses within {self.timeout_s:g} s "
                "(reward.function_timeout_s)"
            ) from error
        except Exception as error:
            first = f"{responses[0][:80]!r}"
            raise RunError(
                f"reward function {self.name} failed on {len(responses)} responses, the first of them {first}: "
                f"{type(error).__name__}: {error}"
            ) from error
