"""Files of candidates and of judgements: what is written is read back, and nothing that was said is lost or doubled."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_dist.errors import UserError
from rlhf_dist.labelling.candidates import Answer, Candidates, Prompt, load_candidates, prompt_id
from rlhf_dist.labelling.judgements import Judgement, JudgementLog, load_judgements, standing

PROMPT = Prompt(
    prompt_id([{"role": "user", "content": "A colour?"}]), ({"role": "user", "content": "A colour?"},), "A colour?"
)
ANSWERS = (
    Answer("x", "Blue.", "old"),
    Answer("y", "Red.", "new", {"temperature": 0.7, "seed": 3}),
    Answer("z", "Seven."),
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def judgement(name: str = "1", **fields: Any) -> Judgement:
    given = {"ranking": (("y",), ("x", "z")), "at": "2026-01-01T00:00:00Z", "seconds": 2.5}
    return Judgement(name, "rank", PROMPT, ANSWERS, "ann", **(given | fields))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "judgements.jsonl"


def test_candidates_are_read_as_they_were_written(tmp_path: Path) -> None:
    chat = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "A colour?"})
    rows = [
        Candidates(PROMPT, ANSWERS, known=(("x", "y"), ("z",))),
        Candidates(Prompt("mine", chat, None)),
    ]
    file = tmp_path / "candidates.jsonl"
    file.write_text("".join(json.dumps(row.to_json()) + "\n" for row in rows))
    assert load_candidates(str(file)) == rows


def test_a_prompt_and_answers_without_ids_get_the_same_ones_in_every_file(tmp_path: Path) -> None:
    found = []
    for name, more in (("one", {}), ("other", {"topic": "colours"})):
        row = {"prompt": "A colour?", "answers": [{"text": "Blue.", "model": "old"}, {"text": "Blue.", "model": "new"}]}
        file = tmp_path / f"{name}.jsonl"
        file.write_text(json.dumps(row | more))
        found += load_candidates(str(file))
    assert found[0] == found[1] and found[0].prompt.id == PROMPT.id
    assert len({answer.id for answer in found[0].answers}) == 2, "equal answers of two models are one"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a", "answers": ["b"]}, "answer 1 is a string, expected an object with text"),
        ({"prompt": "a", "answers": [{"text": "b", "id": "1"}, {"text": "c", "id": "1"}]}, "stands for two answers"),
        ({"prompt": "a", "answers": [{"text": "b", "id": "1"}], "known": [["2"]]}, "ranks 2; the answers are 1"),
        ({"prompt": "a", "answers": [{"text": "b", "id": "1"}], "known": ["1"]}, "must be lists of answers' ids"),
        ({"prompt": "a", "answers": [{"text": "b", "id": "1"}], "known": []}, "ranks nothing; the answers are 1"),
    ],
)
def test_a_mistake_in_candidates_names_its_line(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    file = tmp_path / "candidates.jsonl"
    file.write_text(json.dumps({"prompt": "fine"}) + "\n" + json.dumps(row))
    with pytest.raises(UserError, match=f"^{file}:2: .*{said}"):
        load_candidates(str(file))


def test_the_same_prompt_twice_is_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "candidates.jsonl"
    file.write_text('{"prompt": "a"}\n{"messages": [{"role": "user", "content": "a"}]}')
    with pytest.raises(UserError, match=f"{file}:2: .* the first is in {file}:1"):
        load_candidates(str(file))


@given(
    TEXT,
    TEXT,
    TEXT,
    st.permutations(["x", "y", "z"]),
    st.sampled_from([None, 0, 1, 2, 3]),
    st.dictionaries(st.sampled_from("xyz"), st.dictionaries(TEXT, st.integers(1, 7) | st.booleans()), max_size=3),
)
def test_whatever_is_judged_is_read_as_it_was_said(
    note: str, flag: str, demonstration: str, order: list[str], strength: int | None, ratings: dict[str, Any]
) -> None:
    said = judgement(
        ranking=((order[0],), (order[1], order[2])),
        note=note,
        flag=flag,
        demonstration=demonstration or None,
        strength=strength,
        ratings={name: given for name, given in ratings.items() if given},
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "judgements.jsonl"
        with JudgementLog(path) as log:
            assert log.append(said)
        assert load_judgements(str(path)) == [said if said.ratings else replace(said, ratings={})]


def test_a_judgement_that_is_sent_twice_is_one(path: Path) -> None:
    with JudgementLog(path) as log:
        assert log.append(judgement()) and not log.append(judgement(note="again"))
    with JudgementLog(path) as log:
        assert not log.append(judgement(note="after a restart"))
        assert log.standing == [judgement()]


def test_a_judgement_that_was_changed_does_not_hold(path: Path) -> None:
    with JudgementLog(path) as log:
        log.append(judgement("1"))
        log.append(judgement("2", replaces="1", note="better"))
        assert [one.id for one in log.standing] == ["2"]
    assert [one.id for one in load_judgements(str(path))] == ["2"]
    assert len(path.read_text().splitlines()) == 2, "a line of the file is gone"


def test_what_a_killed_writer_left_half_written_is_cut_and_the_rest_kept(path: Path) -> None:
    with JudgementLog(path) as log:
        log.append(judgement("1", note="ü" * 70_000))  # longer than is read at once
        log.append(judgement("2"))
    whole = path.read_bytes()
    for cut in (1, 20, len(whole.splitlines()[1])):
        path.write_bytes(whole[:-cut])
        assert [one.id for one in load_judgements(str(path))] == ["1"]
        with JudgementLog(path) as log:
            assert [one.id for one in log.standing] == ["1"] and log.append(judgement("2"))
        assert path.read_bytes() == whole


def test_a_full_disk_leaves_no_half_line_and_the_next_judgement_is_kept(path: Path) -> None:
    with JudgementLog(path) as log:
        log.append(judgement("1"))
        before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
        try:
            with pytest.raises(OSError):
                log.append(judgement("2"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == before and log.standing == [judgement("1")]
        assert log.append(judgement("2"))
    assert [one.id for one in load_judgements(str(path))] == ["1", "2"]


def test_a_judgement_is_on_the_disk_when_it_is_acknowledged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    with JudgementLog(path) as log:
        monkeypatch.setattr("os.fsync", lambda file: synced.append(path.stat().st_size))
        log.append(judgement())
        assert synced == [path.stat().st_size]


def test_two_processes_do_not_write_to_one_file(path: Path) -> None:
    code = "import sys, pathlib, rlhf_dist.labelling.judgements as j; j.JudgementLog(pathlib.Path(sys.argv[1]))"
    with JudgementLog(path):
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
        assert f"UserError: {path}: another process writes to it" in done.stderr.replace("rlhf_dist.errors.", "")


def test_of_a_judgement_that_stands_twice_the_first_holds() -> None:
    assert standing([judgement("1"), judgement("1", note="later")]) == [judgement("1")]
