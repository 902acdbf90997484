"""An advantage estimator of the user's own: called with a deadline, and its answer looked at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_dist.algo.advantages import Episodes, Estimator
from rlhf_dist.data.functions import DeadlinePassed, call_with_deadline, describe_error
from rlhf_dist.errors import RunError


@dataclass(frozen=True)
class UserEstimator:
    """The function that `ppo.advantage` names, as an estimator that fails in one line.

    Attributes:
        name: in messages, as the configuration has it.
        function: the user's.
        timeout_s: seconds that one call may take.
    """

    name: str
    function: Estimator
    timeout_s: float

    def __call__(self, episodes: Episodes) -> tuple[Tensor, Tensor | None]:
        """The user's advantages ``[R]``, and returns ``[R]`` or None.

        Raises:
            RunError: the function failed, took too long, or gave something else.
        """
        try:
            answer = call_with_deadline(lambda: self.function(episodes), self.timeout_s)
        except DeadlinePassed as error:
            raise RunError(
                f"ppo.advantage {self.name} returned no advantages for {len(episodes.lengths)} responses within "
                f"{self.timeout_s:g} s (ppo.function_timeout_s)"
            ) from error
        except Exception as error:  # the user's code may raise anything
            raise RunError(f"ppo.advantage {self.name} failed: {describe_error(error)}") from error
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise RunError(
                f"ppo.advantage {self.name} returned {type(answer).__name__}: expected (advantages, returns)"
            )
        advantages, returns = answer
        self._check("advantages", advantages, episodes)
        if returns is not None:
            self._check("returns", returns, episodes)
        return advantages, returns

    def _check(self, what: str, values: object, episodes: Episodes) -> None:
        expected = tuple(episodes.rewards.shape)
        if not isinstance(values, Tensor):
            raise RunError(
                f"ppo.advantage {self.name} returned {what} of type {type(values).__name__}: expected a tensor"
            )
        if tuple(values.shape) != expected:
            raise RunError(
                f"ppo.advantage {self.name} returned {what} of shape {tuple(values.shape)}, expected "
                f"{expected}: one for each response token"
            )
        bad = torch.nonzero(~torch.isfinite(values)).flatten().tolist()
        if bad:
            row = int(torch.searchsorted(torch.cumsum(episodes.lengths, 0), torch.tensor(bad[0]), right=True))
            raise RunError(
                f"ppo.advantage {self.name} returned {what} that are not finite for {len(bad)} of {expected[0]} "
                f"tokens, the first of them {float(values[bad[0]])} in response {row} of the batch"
            )
