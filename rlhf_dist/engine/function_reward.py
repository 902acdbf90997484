"""A Python function that scores texts: in the reward model's place, or as the judge of an evaluation."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rlhf_dist.data.functions import DeadlinePassed, call_with_deadline, describe_error, load_function
from rlhf_dist.engine.text_reward import sample_text
from rlhf_dist.errors import RunError


class FunctionScorer:
    """Scores by ``function(prompts: list[str], responses: list[str]) -> list[float]``.

    Args:
        function: "package.module:function" or "path/file.py:function".
        timeout_s: seconds that one call may take.
        what: it is called in messages.
        key: that sets ``timeout_s``.

    Raises:
        UserError: there is no such function.
    """

    def __init__(
        self, function: str, timeout_s: float, what: str = "reward function", key: str = "function_timeout_s"
    ) -> None:
        self.name, self.timeout_s, self.key = f"{what} {function}", timeout_s, key
        self._function = load_function(function)

    def score(self, prompts: list[str], responses: list[str]) -> Sequence[object]:
        """What the function gives.

        Raises:
            RunError: it failed or took too long; where one sample alone makes it fail, that one is named.
        """
        try:
            return self._call(prompts, responses, self.timeout_s)
        except DeadlinePassed as error:
            raise RunError(
                f"{self.name} returned no scores for {len(responses)} responses within {self.timeout_s:g} s "
                f"({self.key}), the first of them to {sample_text(prompts[0], responses[0])}"
            ) from error
        except Exception as error:  # the user's code may raise anything
            at = self._culprit(prompts, responses)
            raise RunError(
                f"{self.name} failed on {sample_text(prompts[at], responses[at])}: {describe_error(error)}"
            ) from error

    def _call(self, prompts: list[str], responses: list[str], timeout_s: float) -> Sequence[object]:
        return call_with_deadline(lambda: list(self._function(prompts, responses)), timeout_s)

    def _culprit(self, prompts: list[str], responses: list[str]) -> int:
        """The first sample that makes the function fail by itself, or the first one where none is found in time."""
        deadline = time.monotonic() + self.timeout_s
        for at, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            try:
                self._call([prompt], [response], max(deadline - time.monotonic(), 0.0))
            except DeadlinePassed:
                return 0
            except Exception:
                return at
        return 0
