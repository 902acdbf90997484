"""Functions and endpoints as rewards: what they give, and what is said where they fail."""

from __future__ import annotations

import gzip
import itertools
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_dist.engine import http_client
from rlhf_dist.engine.function_reward import FunctionScorer
from rlhf_dist.engine.http_reward import HTTPScorer
from rlhf_dist.engine.text_reward import check_scores
from rlhf_dist.errors import RunError

PROMPTS, RESPONSES = ["p1", "p2", "p3"], ["one", "two", "three"]


def function(tmp_path: Path, body: str) -> FunctionScorer:
    file = tmp_path / f"f{abs(hash(body))}.py"
    file.write_text(f"import time\n\ndef f(prompts, responses):\n    {body}\n")
    return FunctionScorer(f"{file}:f", timeout_s=0.5)


def failure(scorer: Any) -> str:
    with pytest.raises(RunError) as caught:
        check_scores(scorer, PROMPTS, RESPONSES)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_function_scores_all_responses_in_one_call(tmp_path: Path) -> None:
    scorer = function(tmp_path, "return [len(p) + len(r) for p, r in zip(prompts, responses)]")
    assert check_scores(scorer, PROMPTS, RESPONSES) == [5.0, 5.0, 7.0]


@pytest.mark.parametrize(
    "body,said",
    [
        ("return [1.0]", "returned 1 scores for 3 responses"),
        ("return [1.0, float('nan'), 0.0]", "returned nan for prompt 'p2', response 'two'"),
        ("return [1.0, 'good', 0.0]", "returned 'good' for prompt 'p2', response 'two'"),
        (
            "return [1.0, 10**400, 0.0]",
            "returned 1000000000000000000000000000000000000000000000000000000000000000000000000",
        ),
        ("return [1.0, 10**5000, 0.0]", "returned an unprintable int for prompt 'p2', response 'two'"),
        ("return [1.0, [1, 2], 0.0]", "returned [1, 2] for prompt 'p2', response 'two'"),
        ("return None", "failed on prompt 'p1', response 'one': TypeError: 'NoneType' object is not iterable"),
        ("return (time.sleep(9 * (r == 'two')) or 1.0 for r in responses)", "within 0.5 s (function_timeout_s)"),
        ("raise SystemExit(2)", "failed on prompt 'p1', response 'one': RuntimeError: SystemExit: 2"),
        ("return [1 / (r != 'two') for r in responses]", "failed on prompt 'p2', response 'two': ZeroDivisionError"),
        ("time.sleep(2)", "within 0.5 s (function_timeout_s), the first of them to prompt 'p1', response 'one'"),
    ],
)
def test_a_function_that_fails_is_named_with_the_sample(tmp_path: Path, body: str, said: str) -> None:
    text = failure(function(tmp_path, body))
    assert said in text
    assert text.startswith("reward function ")


def test_a_judge_that_fails_is_named_as_the_judge_with_its_own_key(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text(
        "import time\n\ndef nan(p, r):\n    return [float('nan') for _ in r]\n\ndef slow(p, r):\n    time.sleep(9)\n\n"
        "def broken(p, r):\n    return [1 // len(x.strip('two')) for x in r]\n"
    )
    said = {
        "nan": "returned nan for prompt 'p1', response 'one': expected a finite number",
        "slow": "returned no scores for 3 responses within 0.2 s (ppo.function_timeout_s), the first of them",
        "broken": "failed on prompt 'p2', response 'two': ZeroDivisionError: integer division or modulo by zero",
    }
    for name, text in said.items():
        judge = FunctionScorer(f"{tmp_path}/judge.py:{name}", 0.2, "judge", "ppo.function_timeout_s")
        assert failure(judge).startswith(f"judge {tmp_path}/judge.py:{name} {text}")


Answer = Callable[[dict[str, Any]], tuple[int, Any]]


class QuietServer(ThreadingHTTPServer):
    """Its answers that come after the scorer has gone are nobody's: a later test would find their traceback."""

    def handle_error(self, *_: Any) -> None:
        pass


class Server:
    """A real endpoint on loopback, which answers as it is told and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.seen: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append(dict(self.headers))
                answer = outer.answers[min(len(outer.seen), len(outer.answers)) - 1]
                status, content = answer(body)
                text = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "http://127.0.0.1:1/")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = QuietServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/score"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(http_client, "_FIRST_PAUSE_S", 0.01)
    found = Server()
    thread = threading.Thread(target=found.http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield found
    found.http.shutdown()
    found.http.server_close()


def lengths(body: dict[str, Any]) -> tuple[int, Any]:
    return 200, {"scores": [len(response) for response in body["responses"]]}


def scorer(server: Server, query: str = "", retries: int = 3, timeout_s: float = 2.0) -> HTTPScorer:
    return HTTPScorer(server.url + query, timeout_s, retries, "s3cret")


def test_an_endpoint_scores_and_gets_the_token(server: Server) -> None:
    server.answers = [lengths]
    assert check_scores(scorer(server), PROMPTS, RESPONSES) == [3.0, 3.0, 5.0]
    assert server.seen[0]["Authorization"] == "Bearer s3cret"


def test_an_overloaded_endpoint_is_asked_again(server: Server) -> None:
    server.answers = [lambda _: (503, {}), lambda _: (429, {}), lengths]
    assert check_scores(scorer(server), PROMPTS, RESPONSES) == [3.0, 3.0, 5.0]
    assert len(server.seen) == 3


def test_the_pauses_between_tries_grow_and_have_an_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(http_client, "_FIRST_PAUSE_S", 0.5)
    own = SimpleNamespace(**vars(time) | {"sleep": pauses.append})  # time itself is every thread's
    monkeypatch.setattr(http_client, "time", own)
    server.answers = [lambda _: (503, {})] * 9 + [lengths]
    assert check_scores(scorer(server, retries=9), PROMPTS, RESPONSES) == [3.0, 3.0, 5.0]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


@pytest.mark.parametrize(
    "answer,said,asked",
    [
        (lambda _: (401, {}), "HTTP 401", 1),
        (lambda _: (302, {}), "HTTP 302", 1),
        (lambda _: (500, {}), "failed after 3 tries on 3 responses", 3),
        (lambda _: (200, b"<html>"), "not JSON of the form", 1),
        (lambda _: (200, {"scores": 3}), "is no list", 1),
        (lambda _: (200, {"scores": [1.0]}), "returned 1 scores for 3 responses", 1),
        (lambda _: (200, {"scores": [1.0, float("nan"), 2.0]}), "returned nan for prompt 'p2', response 'two'", 1),
        (lambda _: (200, {"scores": [1.0, None, 2.0]}), "returned None for prompt 'p2', response 'two'", 1),
        (lambda _: (200, {"scores": [1.0, True, 2.0]}), "returned True for prompt 'p2', response 'two'", 1),
        (lambda _: (200, {"scores": [1.0, "2", 2.0]}), "returned '2' for prompt 'p2', response 'two'", 1),
        (
            lambda _: (200, b'{"scores": [1.0, 1%s, 2.0]}' % (b"0" * 400)),
            "returned inf for prompt 'p2', response 'two'",
            1,
        ),
        (lambda _: (200, b'{"scores": [1.0, -1%s, 2]}' % (b"0" * 5000)), "returned -inf for prompt 'p2', response", 1),
        (lambda _: (200, b"[" * 100_000), "not JSON of the form", 1),
        (lambda _: (200, b"\xff\xfe"), "not JSON of the form", 1),
    ],
)
def test_an_endpoint_that_fails_is_named_with_the_sample_and_without_secrets(
    server: Server, answer: Answer, said: str, asked: int
) -> None:
    server.answers = [answer]
    text = failure(scorer(server, "?key=hidden", retries=2))
    assert said in text
    assert text.startswith(f"reward endpoint {server.url} ")
    assert "response '" in text
    assert "s3cret" not in text and "hidden" not in text
    assert len(server.seen) == asked


@contextmanager
def wire(*parts: bytes, pause_s: float = 0.0, repeat: bool = False, reset: bool = False) -> Iterator[tuple[str, list]]:
    """Listens on loopback, and to each request sends ``parts``, byte by byte as they are, and hangs up.

    Yields:
        its address, and a list of what it was sent.
    """
    seen: list[bytes] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection:
            seen.append(connection.recv(1 << 16))
            try:
                for part in itertools.cycle(parts) if repeat else parts:
                    connection.sendall(part)
                    time.sleep(pause_s)
            except OSError:
                pass
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def listen() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=listen, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}", seen
    listening.close()


START = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
SCORES = b'{"scores": [1.0, 2.0, 3.0]}'


@pytest.mark.parametrize(
    "sent,said,asked",
    [
        (START + b"Content-Length: 500\r\n\r\n" + SCORES, "failed after 2 tries on 3 responses", 2),
        (START + b"Content-Length: 500\r\n\r\n" + SCORES, "the answer was cut off", 2),
        (START + b"Transfer-Encoding: chunked\r\n\r\n1b\r\n" + SCORES, "the answer was cut off", 2),
        (START + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n" + SCORES, "the answer is not valid HTTP", 2),
        (START[:30], "the connection was closed before the answer", 2),
        (b"", "the connection was closed before the answer", 2),
        (b"hello\r\n\r\n", "the answer is not valid HTTP", 2),
        (START + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(SCORES), "not JSON of the form", 1),
    ],
)
def test_an_answer_that_is_cut_off_is_asked_for_again_and_named(
    monkeypatch: pytest.MonkeyPatch, sent: bytes, said: str, asked: int
) -> None:
    monkeypatch.setattr(http_client, "_FIRST_PAUSE_S", 0.01)
    with wire(sent) as (url, seen):
        assert said in failure(HTTPScorer(url, 30.0, 1, "s3cret"))
        assert len(seen) == asked


def test_a_connection_that_is_reset_is_asked_again_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "_FIRST_PAUSE_S", 0.01)
    with wire(START, reset=True) as (url, seen):
        assert failure(HTTPScorer(url, 30.0, 1, None)).endswith(("Connection reset by peer", "before the answer"))
        assert len(seen) == 2


def test_a_trickle_lasts_no_longer_than_the_timeout() -> None:
    with wire(START + b"Content-Length: 1000000\r\n\r\n", *[b" "] * 1000, pause_s=0.05) as (url, _):
        started = time.monotonic()
        assert "no whole answer within 0.5 s (endpoint_timeout_s)" in failure(HTTPScorer(url, 0.5, 0, None))
        assert time.monotonic() - started < 10


def test_an_answer_without_an_end_is_given_up_by_its_size() -> None:
    with wire(START + b"\r\n", b" " * 65536, repeat=True) as (url, seen):
        said = failure(HTTPScorer(url, 60.0, 3, None))
        assert f"the answer has more than {2**20 + 3 * 2**10} bytes" in said
        assert len(seen) == 1


def test_no_proxy_and_no_netrc_gets_or_changes_the_token(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server.answers = [lengths]
    with wire(b"HTTP/1.1 403 Forbidden\r\n\r\n") as (proxy, seen):
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        assert check_scores(scorer(server), PROMPTS, RESPONSES) == [3.0, 3.0, 5.0]
        assert server.seen[0]["Authorization"] == "Bearer s3cret"
        failure(HTTPScorer("https://localhost:1/score", 5.0, 0, "s3cret"))
        failure(HTTPScorer("http://reward.invalid/score", 5.0, 0, "s3cret"))
        assert seen == []


def test_a_proxy_is_asked_for_a_tunnel_and_sees_the_hosts_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with wire(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n") as (proxy, seen):
        monkeypatch.setenv("https_proxy", proxy)
        text = failure(HTTPScorer("https://reward.invalid/score?key=hidden", 5.0, 0, "s3cret"))
        assert "reward endpoint https://reward.invalid/score failed" in text
        assert seen[0].startswith(b"CONNECT reward.invalid:443 HTTP/1.1\r\n")
        assert "the proxy of the environment (https_proxy) answered HTTP 403" in text
        assert all(secret not in seen[0] + text.encode() for secret in (b"s3cret", b"hidden"))
        assert b"scores" not in seen[0] and b"prompts" not in seen[0]
        monkeypatch.setenv("no_proxy", "reward.invalid")
        failure(HTTPScorer("https://reward.invalid/score", 5.0, 0, "s3cret"))
        assert len(seen) == 1


def test_a_token_that_no_header_can_carry_is_not_shown(server: Server) -> None:
    server.answers = [lengths]
    text = failure(HTTPScorer(server.url, 2.0, 3, "s3cret\nX-Other: 1"))
    assert "s3cret" not in text
    assert server.seen == []


def test_an_endpoint_that_is_too_slow_or_not_there_is_named(server: Server) -> None:
    def slow(body: dict[str, Any]) -> tuple[int, Any]:
        time.sleep(1)
        return lengths(body)

    server.answers = [slow]
    assert "timed out" in failure(scorer(server, retries=0, timeout_s=0.2))
    nobody = HTTPScorer("http://127.0.0.1:1/?key=word", 1.0, 0, None)
    text = failure(nobody)
    assert "refused" in text and "word" not in text
