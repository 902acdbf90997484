"""`rlhf-dist label` as a process: its links, its files, its mistakes, and what a kill leaves."""

from __future__ import annotations

import asyncio
import signal
import socket
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rlhf_dist.__main__ import main
from rlhf_dist.labelling.judgements import load_judgements
from tests.labelling.serving import ROOT, START_S, Server, write


@pytest.fixture
def candidates(tmp_path: Path) -> Path:
    return write(tmp_path / "candidates.jsonl", 6)


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    started: list[Server] = []
    yield started
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
        server.process.communicate()


def test_ctrl_c_ends_it_cleanly_and_a_restart_keeps_links_port_and_what_is_in_hand(
    candidates: Path, servers: list[Server]
) -> None:
    words = [str(candidates), "--out", str(candidates.with_name("out.jsonl")), "--labellers", "ann,bob"]
    sheets = []
    for number in (signal.SIGINT, signal.SIGTERM):
        servers.append(Server(*words))
        sheets.append(asyncio.run(_sheet(servers[-1], "ann")))
        code, out, err = servers[-1].stop(number)
        assert (code, err) == (0, "") and out.startswith("Stopped. 0 judgements stand in ")
    first, second = servers
    assert set(first.tokens) == {"ann", "bob", "operator"}
    assert (first.address, first.tokens) == (second.address, second.tokens) and sheets[0] == sheets[1]


async def _sheet(server: Server, name: str) -> Any:
    async with aiohttp.ClientSession(server.address, cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        await session.post("/api/join", json={"token": server.tokens[name]})
        async with session.get("/api/task") as answer:
            return (await answer.json())["sheet"]


def test_the_links_are_for_their_owner_alone_and_new_labellers_get_new_ones(
    candidates: Path, servers: list[Server]
) -> None:
    out = candidates.with_name("out.jsonl")
    servers.append(Server(str(candidates), "--out", str(out), "--labellers", "ann"))
    servers[0].stop()
    links = out.with_name("out.links.json")
    assert stat.S_IMODE(links.stat().st_mode) == 0o600
    servers.append(Server(str(candidates), "--out", str(out), "--labellers", "ann,bob"))
    old, new = servers[0].tokens, servers[1].tokens
    assert new["ann"] == old["ann"] and new["bob"] not in old.values() and min(map(len, new.values())) >= 32
    assert links.name in "".join(servers[0].said)


def test_requests_leave_no_token_on_the_terminal(candidates: Path, servers: list[Server]) -> None:
    servers.append(Server(str(candidates), "--out", str(candidates.with_name("out.jsonl")), "--labellers", "ann"))
    server = servers[0]
    token = server.tokens["ann"]
    asyncio.run(_sheet(server, "ann"))
    port = int(server.address.rpartition(":")[2].rstrip("/"))
    for rest in (
        f"GET /?{token} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GE\x01 / HTTP/1.1\r\nCookie: {token}\r\nb a d\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(rest.encode())
            connection.recv(1000)
    _, out, err = server.stop()
    assert token not in out + err


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rlhf_dist", "label", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=START_S, check=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{folder}/candidate.jsonl"], "candidates.jsonl"),
        (
            ["{file}", "--task", "ranks"],
            "--task ranks: expected one of rank, compare, rate, demonstrate (did you mean rank?)",
        ),
        (["{folder}/bare.jsonl"], "bare.jsonl: no prompt has 2 answers, which the task rank needs"),
        (["{folder}/bare.jsonl", "--task", "rate"], "bare.jsonl: no prompt has an answer, which the task rate needs"),
        (["{file}", "--labellers", "ann,ann"], "ann stands there twice"),
        (["{file}", "--labellers", "ann,,bob"], "expected names with commas between them"),
        (["{file}", "--shared", "2"], "--shared 2.0: expected a share from 0 to 1"),
        (["{file}", "--known", "nan"], "--known nan: expected a share from 0 to 1"),
        (["{file}", "--lease", "0"], "--lease 0.0: expected minutes, more than 0"),
        (["{file}", "--port", "70000"], "--port 70000: expected a number up to 65535"),
        (["{file}", "--port", "{taken}"], "is taken: choose another one"),
        (["{file}", "--host", "nowhere.invalid"], "--host nowhere.invalid: no such address"),
        (["{file}", "--url", "label.example.org"], "--url label.example.org: expected http(s)://name"),
        (["{file}", "--guidelines", "{folder}/none.md"], "there is no file"),
        (["{file}", "--questions", "{folder}/none.yaml", "--task", "rate"], "there is no file"),
        (["{file}", "--questions", "{folder}/none.yaml"], "--questions is for --task rate, not for rank"),
        (["{file}", "--out", "{folder}/out.txt"], "expected a name that ends in .jsonl"),
        (["{file}", "--out", "{file}"], "candidates.jsonl:1: the field 'task' is missing"),
        (["{file}", "--tsak", "rank"], "unrecognized arguments: --tsak"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, candidates: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    (tmp_path / "bare.jsonl").write_text('{"prompt": "a"}\n')
    with socket.create_server(("127.0.0.1", 0)) as listener:
        filled = {"folder": tmp_path, "file": candidates, "taken": listener.getsockname()[1]}
        given = [word.format(**filled) for word in words]
        code = main(["label", *given, *([] if "--out" in words else ["--out", str(tmp_path / "out.jsonl")])])
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2 and said in line


def test_two_servers_do_not_write_to_one_file(candidates: Path, servers: list[Server]) -> None:
    words = [str(candidates), "--out", str(candidates.with_name("out.jsonl"))]
    servers.append(Server(*words))
    ended = run(*words)
    assert ended.returncode == 2 and "another process writes to it" in ended.stderr


def test_a_labelling_goes_on_only_with_the_settings_that_it_began_with(candidates: Path, servers: list[Server]) -> None:
    words = [str(candidates), "--out", str(candidates.with_name("out.jsonl"))]
    servers.append(Server(*words))
    servers[0].stop()
    for more, said in ((["--task", "rate"], "task rank, not rate"), (["--seed", "1"], "seed 0, not 1")):
        ended = run(*words, *more)
        assert ended.returncode == 2 and f"was begun with {said}: choose another --out" in ended.stderr


@pytest.mark.parametrize("text", ["{}", "nonsense", '{"port": 1, "settings": {}, "tokens": {"": "short"}}'])
def test_a_file_of_links_that_is_none_is_refused(candidates: Path, text: str) -> None:
    links = candidates.with_name("out.links.json")
    links.write_text(text)
    links.chmod(0o600)
    ended = run(str(candidates), "--out", str(candidates.with_name("out.jsonl")))
    assert ended.returncode == 2 and "no file of links; remove it" in ended.stderr
    links.chmod(0o644)
    ended = run(str(candidates), "--out", str(candidates.with_name("out.jsonl")))
    assert ended.returncode == 2 and "others may read these secret links" in ended.stderr


def test_help_and_the_server_need_no_torch(candidates: Path) -> None:
    code = (
        "import sys, rlhf_dist.__main__, rlhf_dist.labelling.command as _; print({'torch', 'ray'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"
    assert "--labellers NAMES" in run("--help").stdout


def test_others_get_in_only_by_the_names_of_this_machine(candidates: Path, servers: list[Server]) -> None:
    servers.append(Server(str(candidates), "--out", str(candidates.with_name("out.jsonl")), "--host", "0.0.0.0"))
    server = servers[0]
    assert "without HTTPS" in "".join(server.said)
    port = int(server.address.rpartition(":")[2].rstrip("/"))

    async def statuses() -> list[int]:
        found = []
        async with aiohttp.ClientSession() as session:
            for host in (f"127.0.0.1:{port}", socket.gethostname(), "evil.example"):
                async with session.get(f"http://127.0.0.1:{port}/", headers={"Host": host}) as answer:
                    found.append(answer.status)
        return found

    assert asyncio.run(statuses()) == [200, 200, 403]


JUDGEMENTS = 1000
KILLS, MOST_KILLS = 4, 12  # as many as it takes until one comes between the writing of a judgement and the answer


def test_two_labellers_and_kills_of_the_server_lose_and_double_none_of_1000_judgements(
    tmp_path: Path, servers: list[Server]
) -> None:
    """Every judgement that a labeller was told is saved is there once; one that was under way may be, once, too."""
    out = tmp_path / "out.jsonl"
    count = JUDGEMENTS - 200  # 200 prompts are shared: each is judged twice
    words = [str(write(tmp_path / "candidates.jsonl", count)), "--out", str(out), "--labellers", "ann,bob"]
    words += ["--shared", "0.25", "--port", str(_free_port())]
    servers.append(Server(*words))
    told: dict[str, str] = {}
    untold = 0  # judgements that stood in the file at a kill, of which no labeller had heard

    async def everything() -> None:
        nonlocal untold
        labellers = [asyncio.create_task(_labeller(servers, name, told)) for name in ("ann", "bob")]
        for number in range(1, MOST_KILLS + 1):
            while len(told) < number * JUDGEMENTS // (MOST_KILLS + 1) and not any(map(asyncio.Task.done, labellers)):
                await asyncio.sleep(0.005)
            if (number > KILLS and untold) or any(map(asyncio.Task.done, labellers)):
                break
            untold += await _kill_between_writing_and_saying_so(servers[-1], out, told)
            servers.append(await asyncio.to_thread(Server, *words))
        await asyncio.wait_for(asyncio.gather(*labellers), 120)

    asyncio.run(everything())
    assert untold, "no kill came between the writing of a judgement and the answer"
    code, said, _ = servers[-1].stop()
    kept = load_judgements(str(out))
    assert code == 0 and f"{JUDGEMENTS} judgements" in said
    assert len(kept) == len(out.read_text().splitlines()) == len({one.id for one in kept}) == JUDGEMENTS
    assert {one.id: one.note for one in kept} == told
    times = Counter(one.prompt.id for one in kept)
    assert Counter(times.values()) == {1: count - 200, 2: 200}
    assert max(Counter((one.prompt.id, one.labeller) for one in kept).values()) == 1


async def _kill_between_writing_and_saying_so(server: Server, out: Path, told: Mapping[str, str]) -> int:
    """Kills the server as soon as the file grows. Returns how many judgements stand there that nobody was told of."""
    size = out.stat().st_size
    while out.stat().st_size == size:
        await asyncio.sleep(0)
    server.process.kill()
    await asyncio.to_thread(server.process.wait)
    await asyncio.sleep(0.05)  # answers that were sent before are read
    return len({one.id for one in load_judgements(str(out))} - told.keys())


async def _labeller(servers: list[Server], name: str, told: dict[str, str]) -> None:
    """Judges until nothing is left, and tries again whatever fails, as the page does."""
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(servers[0].address, cookie_jar=jar) as session:
        await _ask(session, "post", "/api/join", {"token": servers[0].tokens[name]})
        while (shown := (await _ask(session, "get", "/api/task"))["sheet"]) is not None:
            note = f"{name} on {shown['messages'][0]['text']}"
            await _ask(
                session, "post", f"/api/judgements/{shown['id']}", {"ranking": [["A"], ["B", "C"]], "note": note}
            )
            assert shown["id"] not in told
            told[shown["id"]] = note


async def _ask(session: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> Any:
    deadline = time.monotonic() + 60
    while True:
        try:
            async with session.request(method, path, json=body) as answer:
                assert answer.status == 200, await answer.text()
                return await answer.json()
        except (aiohttp.ClientError, ConnectionError):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
