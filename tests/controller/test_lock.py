"""One owner of a run's directory: who is refused, who takes over from whom, and that a robbed owner notices."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rlhf_dist.controller.lock import LockLost, Owner, RunLock
from rlhf_dist.errors import UserError

BEAT_S, SILENT_S = 0.05, 1.0


def lock(folder: Path) -> RunLock:
    return RunLock(folder, beat_s=BEAT_S, silent_s=SILENT_S)


def write_lock(folder: Path, owner: Owner, number: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"lock-{number}"
    path.write_text(f"{0:20d}\n{json.dumps(dataclasses.asdict(owner))}\n")
    return path


def elsewhere(**changes: object) -> Owner:
    """An owner of whom this process can know nothing but what the disk shows."""
    return dataclasses.replace(Owner.myself(), host="faraway", space="another boot", **changes)


HOLD = (
    "import sys, time\nfrom pathlib import Path\nfrom rlhf_dist.controller.lock import RunLock\n"
    "with RunLock(Path(sys.argv[1]), beat_s=0.05) as lock:\n    print('mine', flush=True)\n    time.sleep(60)\n"
)


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that has the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "mine\n"
    return process


def as_seen_from_another_host(path: Path) -> None:
    """Changes what a lock says of its owner's host, so that its process does not count."""
    beat, _, owner = path.read_text().partition("\n")
    other = path.with_name("other")
    other.write_text(f"{beat}\n{json.dumps(json.loads(owner) | {'space': 'another boot'})}\n")
    other.replace(path)


def test_it_leaves_nothing_behind(tmp_path: Path) -> None:
    with lock(tmp_path / "run") as mine:
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock-1"]
        mine.check()
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    with lock(tmp_path / "run"):
        pass
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


def test_a_living_owner_is_named_in_one_line_at_once_and_a_killed_one_followed_at_once(tmp_path: Path) -> None:
    process = holder(tmp_path / "run")
    try:
        with pytest.raises(UserError) as error, RunLock(tmp_path / "run"):
            pass
        text = str(error.value)
        assert (
            f"belongs to a run that is still active (process {process.pid} on {Owner.myself().host}, since 20" in text
        )
        assert "\n" not in text
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    started = time.monotonic()
    with RunLock(tmp_path / "run") as mine:  # with the minute of patience of a real run
        mine.check()
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock-2"]
    assert time.monotonic() - started < 10


def test_a_process_that_got_the_number_of_a_dead_one_is_not_taken_for_it(tmp_path: Path) -> None:
    me = Owner.myself()
    write_lock(tmp_path / "run", dataclasses.replace(me, started=me.started - 1, token="old"))
    with RunLock(tmp_path / "run") as mine:
        mine.check()


def test_an_owner_on_another_host_counts_as_alive_while_its_file_moves(tmp_path: Path) -> None:
    path = write_lock(tmp_path / "run", elsewhere())
    over = threading.Event()

    def beat() -> None:
        count = 0
        while not over.wait(BEAT_S):
            count += 1
            with path.open("r+") as file:
                file.write(f"{count:20d}")

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match=r"still active .* on faraway"), lock(tmp_path / "run"):
            pass
    finally:
        over.set()
        thread.join()


def test_an_owner_gives_signs_of_life(tmp_path: Path) -> None:
    process = holder(tmp_path / "run")
    try:
        as_seen_from_another_host(tmp_path / "run" / "lock-1")
        with pytest.raises(UserError, match=f"still active .process {process.pid} on"), lock(tmp_path / "run"):
            pass
    finally:
        process.kill()
        process.wait()


def test_a_silent_owner_on_another_host_is_followed_after_a_while_whatever_its_clock_says(tmp_path: Path) -> None:
    path = write_lock(tmp_path / "run", elsewhere(since="2999-01-01T00:00:00+00:00"))
    told: list[str] = []
    os.utime(path, (time.time() + 9999,) * 2)  # a file from the future: then only the taker's own clock can tell
    started = time.monotonic()
    with RunLock(tmp_path / "run", beat_s=BEAT_S, silent_s=SILENT_S, tell=told.append) as mine:
        assert time.monotonic() - started >= SILENT_S
        mine.check()
    assert len(told) == 1 and "on faraway" in told[0]


def test_one_that_has_been_silent_for_long_already_is_followed_at_once(tmp_path: Path) -> None:
    path = write_lock(tmp_path / "run", elsewhere())
    os.utime(path, (time.time() - 100,) * 2)
    started = time.monotonic()
    with RunLock(tmp_path / "run") as mine:
        mine.check()
    assert time.monotonic() - started < 10


def test_an_owner_that_was_taken_over_is_told_by_whom_and_leaves_the_lock_to_the_taker(tmp_path: Path) -> None:
    with lock(tmp_path / "run") as mine:
        mine.check()
        (tmp_path / "run" / "lock-1").unlink()
        taker = write_lock(tmp_path / "run", elsewhere(), number=2)
        with pytest.raises(LockLost, match=r"was taken over by process \d+ on faraway, since .*writes nothing more"):
            mine.check()
        assert not mine.is_held()
        time.sleep(3 * BEAT_S)
        assert taker.read_text().startswith(f"{0:20d}\n")  # the heart of the old owner does not beat for the new one
    assert taker.exists()


def test_an_owner_whose_directory_is_gone_is_told(tmp_path: Path) -> None:
    with lock(tmp_path / "run") as mine:
        (tmp_path / "run" / "lock-1").unlink()
        with pytest.raises(LockLost, match="its lock is gone"):
            mine.check()
        (tmp_path / "run").rmdir()
        with pytest.raises(LockLost, match="its lock is gone"):
            mine.check()


def test_a_disk_that_does_not_answer_for_the_moment_is_no_theft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lock(tmp_path / "run") as mine, monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "input/output error")))
        mine.check()


def test_a_paused_owner_that_wakes_up_finds_its_lock_taken(tmp_path: Path) -> None:
    code = HOLD.replace("time.sleep(60)", "sys.stdin.readline()\n    lock.check()")
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "mine\n"
    process.send_signal(signal.SIGSTOP)
    as_seen_from_another_host(tmp_path / "run" / "lock-1")
    with lock(tmp_path / "run") as mine:
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate("go on\n", timeout=60)
        assert process.returncode == 1 and "LockLost" in errors and "was taken over by" in errors
        mine.check()


def _contend(folder: Path, together: Any, results: multiprocessing.Queue) -> None:
    together.wait()
    try:
        with lock(folder) as mine:
            time.sleep(0.3)
            results.put("owner" if mine.is_held() else "robbed")
    except UserError:
        results.put("refused")


def test_of_many_that_want_the_lock_of_a_dead_owner_at_once_one_gets_it(tmp_path: Path) -> None:
    me = Owner.myself()
    context = multiprocessing.get_context("fork")
    for number in range(5):
        folder = tmp_path / f"run-{number}"
        write_lock(folder, dataclasses.replace(me, started=me.started - 1, token="old"))
        results, together = context.Queue(), context.Barrier(8)
        takers = [context.Process(target=_contend, args=(folder, together, results)) for _ in range(8)]
        for taker in takers:
            taker.start()
        found = sorted(results.get(timeout=60) for _ in takers)
        for taker in takers:
            taker.join()
        assert found == ["owner"] + ["refused"] * 7
