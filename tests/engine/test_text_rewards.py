"""Functions and endpoints as rewards: what they give, and what is said where they fail."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rlhf_dist.engine import http_reward
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
        ("return [1.0]", "gave 1 scores for 3 responses"),
        ("return [1.0, float('nan'), 0.0]", "gave nan for prompt 'p2', response 'two'"),
        ("return [1.0, 'good', 0.0]", "gave 'good' for prompt 'p2', response 'two'"),
        ("return [1 / (r != 'two') for r in responses]", "failed on prompt 'p2', response 'two': ZeroDivisionError"),
        ("time.sleep(2)", "within 0.5 s (function_timeout_s), the first of them to prompt 'p1', response 'one'"),
    ],
)
def test_a_function_that_fails_is_named_with_the_sample(tmp_path: Path, body: str, said: str) -> None:
    text = failure(function(tmp_path, body))
    assert said in text
    assert text.startswith("reward function ")


Answer = Callable[[dict[str, Any]], tuple[int, Any]]


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

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/score"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(http_reward, "_FIRST_PAUSE_S", 0.01)
    found = Server()
    thread = threading.Thread(target=found.http.serve_forever, daemon=True)
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


@pytest.mark.parametrize(
    "answer,said,asked",
    [
        (lambda _: (401, {}), "HTTP 401", 1),
        (lambda _: (302, {}), "HTTP 302", 1),
        (lambda _: (500, {}), "failed after 3 tries on 3 responses", 3),
        (lambda _: (200, b"<html>"), "not JSON of the form", 1),
        (lambda _: (200, {"scores": 3}), "is no list", 1),
        (lambda _: (200, {"scores": [1.0]}), "gave 1 scores for 3 responses", 1),
        (lambda _: (200, {"scores": [1.0, float("nan"), 2.0]}), "gave nan for prompt 'p2', response 'two'", 1),
        (lambda _: (200, {"scores": [1.0, None, 2.0]}), "gave None for prompt 'p2', response 'two'", 1),
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


def test_an_endpoint_that_is_too_slow_or_not_there_is_named(server: Server) -> None:
    def slow(body: dict[str, Any]) -> tuple[int, Any]:
        time.sleep(1)
        return lengths(body)

    server.answers = [slow]
    assert "timed out" in failure(scorer(server, retries=0, timeout_s=0.2))
    nobody = HTTPScorer("http://127.0.0.1:1/?key=word", 1.0, 0, None)
    text = failure(nobody)
    assert "refused" in text and "word" not in text
