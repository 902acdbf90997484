"""A Python function in the reward model's place."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout

from rlhf_dist.data.functions import load_function
from rlhf_dist.engine.text_reward import sample_text
from rlhf_dist.errors import RunError


class FunctionScorer:
    """Scores by ``function(prompts: list[str], responses: list[str]) -> list[float]``.

    Args:
        function: "package.module:function" or "path/file.py:function".
        timeout_s: seconds that one call may take.
    """

    def __init__(self, function: str, timeout_s: float) -> None:
        self.name, self.timeout_s = f"reward function {function}", timeout_s
        self._function = load_function(function)
        self._thread = ThreadPoolExecutor(1)

    def score(self, prompts: list[str], responses: list[str]) -> Sequence[object]:
        """What the function gives.

        Raises:
            RunError: it failed or took too long; where one sample alone makes it fail, that one is named.
        """
        try:
            return self._call(prompts, responses)
        except FutureTimeout as error:
            raise RunError(
                f"{self.name} gave no scores of {len(responses)} responses within {self.timeout_s:g} s "
                f"(function_timeout_s), the first of them to {sample_text(prompts[0], responses[0])}"
            ) from error
        except Exception as error:  # the user's code may raise anything
            at = self._culprit(prompts, responses)
            raise RunError(
                f"{self.name} failed on {sample_text(prompts[at], responses[at])}: {type(error).__name__}: {error}"
            ) from error

    def _call(self, prompts: list[str], responses: list[str]) -> Sequence[object]:
        return list(self._thread.submit(self._function, prompts, responses).result(self.timeout_s))

    def _culprit(self, prompts: list[str], responses: list[str]) -> int:
        """The first sample that makes the function fail by itself, or the first one where none does."""
        for at, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            try:
                self._call([prompt], [response])
            except Exception:
                return at
        return 0
