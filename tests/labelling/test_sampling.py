"""Sampling for labellers: who answers how often, duplicates, and a file that a second call goes on with."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_dist.__main__ import main
from rlhf_dist.errors import UserError
from rlhf_dist.labelling.candidates import Prompt, load_candidates, prompt_id
from rlhf_dist.labelling.sample_file import SampleFile
from rlhf_dist.labelling.sample_request import add_sample, named_model, sample_request
from rlhf_dist.labelling.sampling import (
    Draw,
    Drawn,
    SampledModel,
    SampleSettings,
    Wanted,
    draw_distinct,
    sample_number,
    share,
)
from tests.tiny import write_jsonl

SETTINGS = SampleSettings(3, 1.0, 1.0, 0, 16, 1, "vllm", 2)
OLD, NEW = SampledModel("old", "runs/a/model", 7, "f1"), SampledModel("new", "runs/b/model", None, "f2")


def prompt(text: str) -> Prompt:
    message = {"role": "user", "content": text}
    return Prompt(prompt_id([message]), (message,), text)


PROMPTS = [prompt(text) for text in "abcde"]


def numbered(draws: Sequence[Draw]) -> list[Drawn]:
    return [Drawn(f"text {one.sample}", 2, True) for one in draws]


def answer_all(file: SampleFile, draw: Callable[[Sequence[Draw]], list[Drawn]] = numbered, batches: int = 99) -> None:
    """As the job does it, two prompts at a time, up to a number of batches."""
    for number, model in enumerate(file.models):
        rows = file.pending(number)
        for start in range(0, len(rows), 2):
            if batches == 0:
                return
            batches -= 1
            some = rows[start : start + 2]
            answered = draw_distinct([file.wanted(number, row) for row in some], model, file.settings, draw)
            file.add(number, dict(zip(some, answered.answers, strict=True)))


def opened(out: Path, settings: SampleSettings = SETTINGS, **fields: Any) -> SampleFile:
    given = {"models": [OLD, NEW], "prompts": PROMPTS, "overwrite": False} | fields
    return SampleFile(out, settings, given["models"], given["prompts"], given["overwrite"])


@given(st.integers(1, 5), st.data())
def test_models_share_the_answers_to_each_prompt_and_none_is_left_out(models: int, data: st.DataObject) -> None:
    answers = data.draw(st.integers(models, 9))
    rows = [[share(answers, models, model, row) for model in range(models)] for row in range(models)]
    assert all(sum(row) == answers and min(row) >= 1 for row in rows)
    assert len({sum(row[model] for row in rows) for model in range(models)}) == 1, "one model answers more often"


def test_a_duplicate_is_drawn_again_with_other_random_numbers() -> None:
    texts = iter(["Same.", "Same.", "Same. ", "Other.", "Third."])
    asked: list[Draw] = []

    def draw(draws: Sequence[Draw]) -> list[Drawn]:
        asked.extend(draws)
        return [Drawn(next(texts), 1, True) for _ in draws]

    answered = draw_distinct([Wanted(PROMPTS[0], 3, set())], OLD, SETTINGS, draw)
    assert [answer.text for answer in answered.answers[0]] == ["Same.", "Other.", "Third."]
    assert answered.drawn_again == 2 and len({one.sample for one in asked}) == 5


def test_a_text_that_another_model_gave_is_a_duplicate_and_draws_end_after_so_many() -> None:
    calls: list[int] = []

    def draw(draws: Sequence[Draw]) -> list[Drawn]:
        calls.append(len(draws))
        return [Drawn("Taken  already.", 1, True) for _ in draws]

    answered = draw_distinct([Wanted(PROMPTS[0], 2, {"Taken already."})], OLD, SETTINGS, draw)
    assert answered.answers == [()] and calls == [2, 2, 2] and answered.drawn_again == 4


def test_an_answer_says_how_it_was_sampled() -> None:
    (given,) = draw_distinct([Wanted(PROMPTS[0], 1, set())], OLD, SETTINGS, numbered).answers[0]
    assert given.model == "old"
    assert given.details == {
        "path": "runs/a/model",
        "weight_version": 7,
        "backend": "vllm",
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "seed": 1,
        "sample": sample_number(PROMPTS[0].id, "old", 0),
        "tokens": 2,
        "finished": True,
    }


def test_the_random_numbers_of_a_draw_depend_on_prompt_model_and_draw_alone() -> None:
    numbers = {sample_number(one.id, model, draw) for one in PROMPTS for model in ("old", "new") for draw in range(3)}
    assert len(numbers) == 30 and all(0 <= number < 2**43 for number in numbers)


def test_a_call_that_was_killed_anywhere_is_gone_on_with_to_the_same_file(tmp_path: Path) -> None:
    with opened(tmp_path / "whole.jsonl") as file:
        answer_all(file)
    whole = (tmp_path / "whole.jsonl").read_bytes()
    assert [len(row.answers) for row in load_candidates(str(tmp_path / "whole.jsonl"))] == [3] * 5
    for batches in range(7):
        for torn in (0, 9):
            out = tmp_path / f"{batches}-{torn}.jsonl"
            with opened(out) as file:
                answer_all(file, batches=batches)
            for path in (out, out.with_suffix(".sampling.jsonl")):
                if torn and path.stat().st_size:
                    path.write_bytes(path.read_bytes()[:-torn])
            drawn: list[Draw] = []
            with opened(out) as file:
                kept = file.whole
                answer_all(file, lambda draws, drawn=drawn: drawn.extend(draws) or numbered(draws))
            assert out.read_bytes() == whole
            assert kept == (0 if batches < 4 else (2 * batches - 6 if batches < 6 else 5) - bool(torn))
            assert len(drawn) <= 15 - kept * 3


def test_more_prompts_are_added_to_a_file_that_is_finished(tmp_path: Path) -> None:
    with opened(tmp_path / "c.jsonl", prompts=PROMPTS[:2]) as file:
        answer_all(file)
    with opened(tmp_path / "c.jsonl") as file:
        assert (file.whole, file.pending(0)) == (2, [2, 3, 4])
        answer_all(file)
    with opened(tmp_path / "c.jsonl", prompts=PROMPTS[:3]) as file:
        assert (file.whole, file.pending(0), file.pending(1)) == (5, [], [])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"settings": replace(SETTINGS, temperature=0.7, seed=2)}, "--temperature 1.0, now 0.7; --seed 1, now 2"),
        ({"models": [OLD]}, "--model old, new, now old"),
        ({"models": [OLD, replace(NEW, fingerprint="f3")]}, "--model new has other weights"),
        ({"prompts": PROMPTS[::-1]}, "c.jsonl:1: this answers another prompt"),
    ],
)
def test_what_was_sampled_otherwise_is_refused_and_left_alone(
    tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    out = tmp_path / "c.jsonl"
    with opened(out) as file:
        answer_all(file)
    before = out.read_bytes()
    with pytest.raises(UserError, match=said) as error:
        opened(out, **changed)
    assert "--overwrite" in str(error.value) and out.read_bytes() == before
    with opened(out, **changed, overwrite=True) as file:
        assert file.whole == 0


def test_settings_may_change_as_long_as_nothing_was_answered(tmp_path: Path) -> None:
    with opened(tmp_path / "c.jsonl"):
        pass
    with opened(tmp_path / "c.jsonl", replace(SETTINGS, seed=2)):
        pass
    with opened(tmp_path / "c.jsonl", replace(SETTINGS, seed=2)) as file:
        answer_all(file, batches=1)
    with pytest.raises(UserError, match="--seed 2, now 1"):
        opened(tmp_path / "c.jsonl")


def test_a_model_that_was_moved_is_the_same(tmp_path: Path) -> None:
    with opened(tmp_path / "c.jsonl") as file:
        answer_all(file, batches=4)
    with opened(tmp_path / "c.jsonl", models=[replace(OLD, path="elsewhere"), NEW]) as file:
        assert file.whole == 2


def test_a_file_that_was_not_sampled_is_not_written_to(tmp_path: Path) -> None:
    out = write_jsonl(tmp_path / "c.jsonl", [{"prompt": "mine", "answers": [{"text": "precious"}]}])
    with pytest.raises(UserError, match=r"c.jsonl is there already, and .*c.sampling.jsonl, .* is not"):
        opened(out)
    assert "precious" in out.read_text()


@pytest.mark.parametrize("text", ["DIR", "org/DIR", "some/where/DIR"])
def test_a_model_is_called_after_its_directory(text: str) -> None:
    assert named_model(text) == ("DIR", text)
    assert named_model(f"best={text}") == ("best", text)


def test_the_model_of_a_run_is_called_after_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "runs/ppo-3/model"
    folder.mkdir(parents=True)
    assert named_model(str(folder))[0] == "model"
    (folder.parent / "config.yaml").touch()
    assert named_model(str(folder))[0] == "ppo-3"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--k 1", "--k 1: expected 2 or more"),
        ("--temperature nan", "--temperature nan: expected 0 or more"),
        ("--temperature 0", "--temperature 0 gives the same answer each time, so --k can be at most the number"),
        ("--top-p 0", "--top-p 0.0: expected more than 0, at most 1"),
        ("--limit 0", "--limit 0: expected 1 or more"),
        ("--seed 1000000000000000000", "--seed 1000000000000000000 is too large"),
        ("--model {model}", "two models are called 'tiny0'"),
        ("--model =x", "--model =x: expected DIR or NAME=DIR"),
        ("--k 2 --model b={model} --model c={model}", "--k 2 is fewer than the 3 models"),
        ("--model nowhere/b/c", "--model: there is no model directory nowhere/b/c"),
        ("--prompts {prompts}x.jsonl", "there is no file"),
        ("--backend hf --tensor-parallel 2", "--tensor-parallel needs --backend vllm"),
        ("--kk 3", "unrecognized arguments: --kk 3"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_loaded(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "a"}])
    more = words.format(model=tiny_model, prompts=tmp_path / "prompts").split()
    out = tmp_path / "c.jsonl"
    command = ["sample", "--model", str(tiny_model), "--prompts", str(prompts), "--out", str(out), *more]
    assert main(command) == 2
    shown = capsys.readouterr()
    assert said in shown.err and len(shown.err.splitlines()) == 1
    assert not out.exists()


def test_a_prompt_that_stands_twice_is_sampled_once(tmp_path: Path) -> None:
    rows = [{"prompt": text} for text in "abac"]
    write_jsonl(tmp_path / "prompts.jsonl", rows)
    parser = ArgumentParser()
    add_sample(parser.add_subparsers())
    words = ["sample", "--model", "org/name", "--prompts", str(tmp_path / "prompts.jsonl"), "--out", "c.jsonl"]
    request = sample_request(parser.parse_args([*words, "--limit", "3"]))
    assert [one.plain for one in request.prompts] == ["a", "b", "c"] and request.repeated == 1
    assert json.dumps([one.text for one in request.texts]) == '["a", "b", "c"]'
