"""Requests to an HTTP endpoint of the user's: with deadlines, retries and bounds, and a token that stays hidden."""

from __future__ import annotations

import asyncio
import os
import time
import urllib.request
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

import aiohttp

from rlhf_dist.data.functions import DeadlinePassed, call_with_deadline

T = TypeVar("T")

_AGAIN = (429, 500, 502, 503, 504)  # the statuses by which a server says "later"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0  # between tries; doubled after each
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class RequestFailed(Exception):
    """A request without a usable answer. Its text says why, without a secret.

    Attributes:
        again: whether another try may go better.
        tries: how many there were.
    """

    def __init__(self, reason: str, again: bool, tries: int = 1) -> None:
        super().__init__(reason)
        self.again, self.tries = again, tries

    @property
    def after(self) -> str:
        """ " after N tries", where there were several: made to stand behind "failed"."""
        return f" after {self.tries} tries" if self.tries > 1 else ""


class HTTPClient:
    """Sends JSON to one endpoint.

    Args:
        what: it is called in messages, such as "reward endpoint".
        url: http or https.
        timeout_s: seconds that one request may take, from looking up the host's name to the answer's last byte.
        retries: tries after the first one, where the endpoint cannot be reached, is too slow, cuts its answer off, or
            answers 429 or 5xx.
        token: bearer token; None sends none.
        timeout_key: the option or key that sets ``timeout_s``.

    Attributes:
        name: for messages: what it is, and its URL without a user's name, a password or a query.
    """

    def __init__(
        self, what: str, url: str, timeout_s: float, retries: int, token: str | None, timeout_key: str
    ) -> None:
        self._url, self.timeout_s, self.retries, self._timeout_key = url, timeout_s, retries, timeout_key
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        self.name = f"{what} {parts.scheme}://{parts.hostname}{port}{parts.path}"
        self._proxy = _proxy(parts)
        # An answer that is small when compressed may be of any size after it.
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    def post(self, body: bytes, most: int, read: Callable[[bytes], T]) -> T:
        """What ``read`` makes of the endpoint's answer, of at most ``most`` bytes.

        Raises:
            RequestFailed: the endpoint cannot be reached or refuses, or ``read`` raised it.
        """
        pause = _FIRST_PAUSE_S
        for attempt in range(self.retries + 1):
            try:
                return read(self._ask(body, most))
            except RequestFailed as failure:
                if not failure.again or attempt == self.retries:
                    raise RequestFailed(str(failure), failure.again, attempt + 1) from None
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        raise AssertionError("the last try returns or raises")

    def _ask(self, body: bytes, most: int) -> bytes:
        """The endpoint's answer to one request."""
        late = f"timed out: no whole answer within {self.timeout_s:g} s ({self._timeout_key})"
        try:
            # The second deadline is for what the first one cannot end: a look-up of the host's name.
            return call_with_deadline(lambda: asyncio.run(self._post(body, most)), self.timeout_s + 1.0)
        except (TimeoutError, asyncio.TimeoutError, DeadlinePassed):
            raise RequestFailed(late, again=True) from None
        except aiohttp.ClientPayloadError:
            raise RequestFailed("the answer was cut off", again=True) from None
        except aiohttp.ServerDisconnectedError:
            raise RequestFailed("the connection was closed before the answer", again=True) from None
        except OSError as error:  # refused, reset, no such host; its text may hold the URL
            number = error.errno or 0
            known = os.strerror(number) if number > 0 else error.strerror  # below 0 are those of name look-ups
            raise RequestFailed(str(known or type(error).__name__), again=True) from None
        except aiohttp.ClientHttpProxyError as error:
            raise RequestFailed(
                f"the proxy of the environment (https_proxy) answered HTTP {error.status}", True
            ) from None
        except aiohttp.ClientResponseError:
            raise RequestFailed("the answer is not valid HTTP", again=True) from None
        except (aiohttp.ClientError, ValueError) as error:  # their texts hold the URL or the token
            raise RequestFailed(f"it cannot be asked ({type(error).__name__})", again=False) from None

    async def _post(self, body: bytes, most: int) -> bytes:
        limit = aiohttp.ClientTimeout(total=self.timeout_s)
        # No setting of the environment changes where the token goes: neither a proxy (but see _proxy) nor ~/.netrc.
        async with aiohttp.ClientSession(timeout=limit, trust_env=False, auto_decompress=False) as session:
            # A redirect is an answer like another: following it would carry the token to where it points.
            async with session.post(
                self._url, data=body, headers=self._headers, proxy=self._proxy, allow_redirects=False
            ) as answer:
                if answer.status != 200:
                    raise RequestFailed(f"HTTP {answer.status}", answer.status in _AGAIN)
                text = bytearray()
                async for part in answer.content.iter_any():
                    text += part
                    if len(text) > most:
                        raise RequestFailed(f"the answer has more than {most} bytes", again=False)
                return bytes(text)


def _proxy(parts: SplitResult) -> str | None:
    """The proxy of the environment (`https_proxy`, `no_proxy`) for an https endpoint elsewhere, else None.

    It is asked for a tunnel and sees the host's name only. Over http it would see the token and all texts.
    """
    host = parts.hostname or ""
    if parts.scheme != "https" or host in _LOOPBACK or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get("https")
