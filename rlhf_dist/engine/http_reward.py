"""An HTTP endpoint in the reward model's place."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rlhf_dist.engine.http_client import HTTPClient, RequestFailed
from rlhf_dist.engine.text_reward import sample_text
from rlhf_dist.errors import RunError

_MOST_BYTES, _MOST_BYTES_A_SCORE = 2**20, 2**10  # of an answer


class HTTPScorer:
    """Scores by ``POST {"prompts": [...], "responses": [...]}``, answered by ``{"scores": [...]}``.

    Args:
        endpoint, timeout_s, retries, token: as of :class:`~rlhf_dist.engine.http_client.HTTPClient`.
    """

    def __init__(self, endpoint: str, timeout_s: float, retries: int, token: str | None) -> None:
        self._client = HTTPClient("reward endpoint", endpoint, timeout_s, retries, token, "endpoint_timeout_s")
        self.name = self._client.name

    def score(self, prompts: list[str], responses: list[str]) -> Sequence[object]:
        """What the endpoint answers.

        Raises:
            RunError: it cannot be reached, refuses, or answers something else than scores.
        """
        body = json.dumps({"prompts": prompts, "responses": responses}).encode()
        try:
            return self._client.post(body, _MOST_BYTES + _MOST_BYTES_A_SCORE * len(responses), _scores)
        except RequestFailed as failure:
            raise RunError(
                f"{self.name} failed{failure.after} on {len(responses)} responses, the first of them to "
                f"{sample_text(prompts[0], responses[0])}: {failure}"
            ) from None


def _scores(text: bytes) -> list[object]:
    try:
        # Read as floats, integers have no length that Python refuses: 10**5000 is infinite, and named with its sample.
        scores = json.loads(text, parse_int=float)["scores"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise RequestFailed('the answer is not JSON of the form {"scores": [...]}', again=False) from None
    if not isinstance(scores, list):
        raise RequestFailed('"scores" in the answer is no list', again=False)
    return scores
