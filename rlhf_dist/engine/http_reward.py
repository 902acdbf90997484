"""An HTTP endpoint in the reward model's place."""

from __future__ import annotations

import asyncio
import json
import os
import time
import urllib.request
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

import aiohttp

from rlhf_dist.data.functions import DeadlinePassed, call_with_deadline
from rlhf_dist.engine.text_reward import sample_text
from rlhf_dist.errors import RunError

_AGAIN = (429, 500, 502, 503, 504)  # the statuses by which a server says "later"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0  # between tries; doubled after each
_MOST_BYTES, _MOST_BYTES_A_SCORE = 2**20, 2**10  # of an answer
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _Failed(Exception):
    """A request without scores.

    Attributes:
        again: whether another try may go better.
    """

    def __init__(self, reason: str, again: bool) -> None:
        super().__init__(reason)
        self.again = again


class HTTPScorer:
    """Scores by ``POST {"prompts": [...], "responses": [...]}``, answered by ``{"scores": [...]}``.

    Args:
        endpoint: http or https URL.
        timeout_s: seconds that one request may take, from looking up the host's name to the answer's last byte.
        retries: tries after the first one, where the endpoint cannot be reached, is too slow, cuts its answer off, or
            answers 429 or 5xx.
        token: bearer token; None sends none.
    """

    def __init__(self, endpoint: str, timeout_s: float, retries: int, token: str | None) -> None:
        self._url, self.timeout_s, self.retries = endpoint, timeout_s, retries
        parts = urlsplit(endpoint)
        # Neither a user's name, a password nor a query belongs into a message.
        port = f":{parts.port}" if parts.port else ""
        self.name = f"reward endpoint {parts.scheme}://{parts.hostname}{port}{parts.path}"
        self._proxy = _proxy(parts)
        # An answer that is small when compressed may be of any size after it.
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    def score(self, prompts: list[str], responses: list[str]) -> Sequence[object]:
        """What the endpoint answers.

        Raises:
            RunError: it cannot be reached, refuses, or answers something else than scores.
        """
        body = json.dumps({"prompts": prompts, "responses": responses}).encode()
        most = _MOST_BYTES + _MOST_BYTES_A_SCORE * len(responses)
        reason, pause = "", _FIRST_PAUSE_S
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            try:
                return _scores(self._ask(body, most))
            except _Failed as failure:
                reason = str(failure)
                if not failure.again:
                    break
        tries = f" after {attempt + 1} tries" if attempt else ""
        raise RunError(
            f"{self.name} failed{tries} on {len(responses)} responses, the first of them to "
            f"{sample_text(prompts[0], responses[0])}: {reason}"
        )

    def _ask(self, body: bytes, most: int) -> bytes:
        """The endpoint's answer to one request."""
        late = f"timed out: no whole answer within {self.timeout_s:g} s (endpoint_timeout_s)"
        try:
            # The second deadline is for what the first one cannot end: a look-up of the host's name.
            return call_with_deadline(lambda: asyncio.run(self._post(body, most)), self.timeout_s + 1.0)
        except (TimeoutError, asyncio.TimeoutError, DeadlinePassed):
            raise _Failed(late, again=True) from None
        except aiohttp.ClientPayloadError:
            raise _Failed("the answer was cut off", again=True) from None
        except aiohttp.ServerDisconnectedError:
            raise _Failed("the connection was closed before the answer", again=True) from None
        except OSError as error:  # refused, reset, no such host; its text may hold the URL
            number = error.errno or 0
            known = os.strerror(number) if number > 0 else error.strerror  # below 0 are those of name look-ups
            raise _Failed(str(known or type(error).__name__), again=True) from None
        except aiohttp.ClientHttpProxyError as error:
            raise _Failed(f"the proxy of the environment (https_proxy) answered HTTP {error.status}", True) from None
        except aiohttp.ClientResponseError:
            raise _Failed("the answer is not valid HTTP", again=True) from None
        except (aiohttp.ClientError, ValueError) as error:  # their texts hold the URL or the token
            raise _Failed(f"it cannot be asked ({type(error).__name__})", again=False) from None

    async def _post(self, body: bytes, most: int) -> bytes:
        limit = aiohttp.ClientTimeout(total=self.timeout_s)
        # No setting of the environment changes where the token goes: neither a proxy (but see _proxy) nor ~/.netrc.
        async with aiohttp.ClientSession(timeout=limit, trust_env=False, auto_decompress=False) as session:
            # A redirect is an answer like another: following it would carry the token to where it points.
            async with session.post(
                self._url, data=body, headers=self._headers, proxy=self._proxy, allow_redirects=False
            ) as answer:
                if answer.status != 200:
                    raise _Failed(f"HTTP {answer.status}", answer.status in _AGAIN)
                text = bytearray()
                async for part in answer.content.iter_any():
                    text += part
                    if len(text) > most:
                        raise _Failed(f"the answer has more than {most} bytes", again=False)
                return bytes(text)


def _scores(text: bytes) -> list[object]:
    try:
        # Read as floats, integers have no length that Python refuses: 10**5000 is infinite, and named with its sample.
        scores = json.loads(text, parse_int=float)["scores"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _Failed('the answer is not JSON of the form {"scores": [...]}', again=False) from None
    if not isinstance(scores, list):
        raise _Failed('"scores" in the answer is no list', again=False)
    return scores


def _proxy(parts: SplitResult) -> str | None:
    """The proxy of the environment (`https_proxy`, `no_proxy`) for an https endpoint elsewhere, else None.

    It is asked for a tunnel and sees the host's name only. Over http it would see the token and all texts.
    """
    host = parts.hostname or ""
    if parts.scheme != "https" or host in _LOOPBACK or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get("https")
