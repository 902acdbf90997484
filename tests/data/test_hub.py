"""Whether the hub answers, and for how long it is waited for."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import datasets
import pytest
import torch
from huggingface_hub import constants
from transformers import AutoConfig, AutoTokenizer

from rlhf_dist.config.schema import ModelConfig
from rlhf_dist.data import hub, records, tokenizer
from rlhf_dist.data.hub import hub_reachable
from rlhf_dist.data.records import read_records
from rlhf_dist.data.tokenizer import load_tokenizer
from rlhf_dist.errors import UserError
from rlhf_dist.plan.facts import policy_facts


class Refusing(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_error(403)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Refusing) as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{http.server_port}")
        yield constants.ENDPOINT
        http.shutdown()


def test_any_answer_means_that_the_hub_is_there(server: str) -> None:
    assert hub_reachable()


def test_no_answer_means_that_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), Refusing) as http:
        port = http.server_port
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    assert not hub_reachable()


def test_the_offline_switch_is_obeyed(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub_reachable()


def test_a_hub_that_stalls_is_waited_for_until_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(hub, "DOWNLOAD_TIMEOUT_S", 0.2)
    monkeypatch.setattr(tokenizer, "hub_reachable", lambda: True)
    monkeypatch.setattr(records, "hub_reachable", lambda: True)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: released.wait(60))
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *_, **__: released.wait(60))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: released.wait(60))
    with pytest.raises(UserError) as caught:
        load_tokenizer("nobody/nothing")
    assert str(caught.value) == (
        "the tokenizer nobody/nothing was not downloaded from the hub within 0.2 s: fetch it beforehand with "
        "`hf download nobody/nothing`; it is then read from the local cache"
    )
    with pytest.raises(UserError) as caught:
        read_records("nobody/nothing", "train")
    assert "`hf download nobody/nothing --repo-type dataset`" in str(caught.value)
    with pytest.raises(UserError, match="the configuration nobody/nothing was not downloaded from the hub"):
        policy_facts(ModelConfig(path="nobody/nothing"), torch.float32)
    released.set()


def test_a_hub_whose_answer_trickles_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listening.getsockname()[1]}")
        monkeypatch.setattr(hub, "TIMEOUT_S", 1.0)

        def trickle() -> None:
            connection, _ = listening.accept()
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                for _ in range(100):
                    connection.sendall(b"a: b\r\n")
                    time.sleep(0.1)
            except OSError:
                pass

        threading.Thread(target=trickle, daemon=True).start()
        started = time.monotonic()
        assert not hub_reachable()
        assert time.monotonic() - started < 8
