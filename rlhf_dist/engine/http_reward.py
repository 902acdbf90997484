"""An HTTP endpoint in the reward model's place."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from urllib.parse import urlsplit

from rlhf_dist.engine.text_reward import sample_text
from rlhf_dist.errors import RunError

_AGAIN = (429, 500, 502, 503, 504)  # the statuses by which a server says "later"
_FIRST_PAUSE_S = 0.5  # doubled after every try


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer like another: following it would carry the token to where it points."""

    def redirect_request(self, *_: object) -> None:
        return None


class HTTPScorer:
    """Scores by ``POST {"prompts": [...], "responses": [...]}``, answered by ``{"scores": [...]}``.

    Args:
        endpoint: http or https URL.
        timeout_s: seconds that one request may take.
        retries: tries after the first one, where the endpoint cannot be reached, is too slow, or answers 429 or 5xx.
        token: bearer token; None sends none.
    """

    def __init__(self, endpoint: str, timeout_s: float, retries: int, token: str | None) -> None:
        self._url, self.timeout_s, self.retries, self._token = endpoint, timeout_s, retries, token
        parts = urlsplit(endpoint)
        # Neither a user's name, a password nor a query belongs into a message.
        port = f":{parts.port}" if parts.port else ""
        self.name = f"reward endpoint {parts.scheme}://{parts.hostname}{port}{parts.path}"
        self._opener = urllib.request.build_opener(_NoRedirect)

    def score(self, prompts: list[str], responses: list[str]) -> Sequence[object]:
        """What the endpoint answers.

        Raises:
            RunError: it cannot be reached, refuses, or answers something else than scores.
        """
        body = json.dumps({"prompts": prompts, "responses": responses}).encode()
        reason, pause = "", _FIRST_PAUSE_S
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(pause)
                pause *= 2
            try:
                return self._ask(body)
            except urllib.error.HTTPError as error:
                error.close()
                reason = f"HTTP {error.code}"
                if error.code not in _AGAIN:
                    break
            except OSError as error:  # refused, reset, timed out, no such host
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            except ValueError as error:
                reason = str(error)
                break
        tries = f" after {attempt + 1} tries" if attempt else ""
        raise RunError(
            f"{self.name} failed{tries} on {len(responses)} responses, the first of them to "
            f"{sample_text(prompts[0], responses[0])}: {reason}"
        )

    def _ask(self, body: bytes) -> Sequence[object]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self._url, body, headers, method="POST")
        with self._opener.open(request, timeout=self.timeout_s) as answer:
            text = answer.read()
        try:
            scores = json.loads(text)["scores"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError('the answer is not JSON of the form {"scores": [...]}') from error
        if not isinstance(scores, list):
            raise ValueError('"scores" in the answer is no list')
        return scores
