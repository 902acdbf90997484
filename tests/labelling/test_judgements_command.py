"""`rlhf-dist judgements`: tables, page, JSON and rows for training, and one line where something is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rlhf_dist.__main__ import main
from rlhf_dist.labelling.candidates import Candidates
from rlhf_dist.labelling.estimates import Estimate
from rlhf_dist.labelling.judgements import Judgement
from rlhf_dist.labelling.tables import Column, Table, cell_text, html_tables
from tests.labelling.made import ranked, simulated, write

ROOT = Path(__file__).resolve().parents[2]
FEW = ["--resamples", "20"]
EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&\x1b[31m"


@pytest.fixture
def people() -> list[Judgement]:
    return simulated({"old": 0.0, "new": 1.0, "other": 0.5}, 12, ["ann", "bob"], 1)


class _Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}


def test_tables_page_json_and_rankings_come_of_one_command(
    tmp_path: Path, people: list[Judgement], capsys: pytest.CaptureFixture[str]
) -> None:
    judges = [
        replace(row, id="j" + row.id, labeller="judge", source="model") for row in people if row.labeller == "ann"
    ]
    known = Candidates(people[0].prompt, people[0].answers, (("new",), ("other",), ("old",)))
    (tmp_path / "candidates.jsonl").write_text(json.dumps(known.to_json()) + "\n")
    files = [str(write(tmp_path / "people.jsonl", people)), str(write(tmp_path / "ai.jsonl", judges))]
    outputs = {name: tmp_path / name for name in ("rankings.jsonl", "page.html", "all.json")}
    options = ["--candidates", str(tmp_path / "candidates.jsonl"), "--rankings", str(outputs["rankings.jsonl"])]
    options += ["--html", str(outputs["page.html"]), "--json", str(outputs["all.json"])]
    assert main(["judgements", *files, *options, *FEW]) == 0

    shown, figures = capsys.readouterr().out, json.loads(outputs["all.json"].read_text())
    page = outputs["page.html"].read_text()
    headings = ("Labellers", "Agreement between people", "Agreement of judges with people", "Krippendorff's alpha")
    headings += ("Agreement with the known rankings", "Position and length bias", "Models", "Win rates")
    for heading in headings:
        assert heading in shown and heading in page.replace("&#x27;", "'")
    assert figures["judgements"] == 36 and figures["prompts"] == 12
    assert figures["judges"][0]["one"] == "judge (model)" and figures["known"][0]["prompts"] == 1
    rows = [json.loads(line) for line in outputs["rankings.jsonl"].read_text().splitlines()]
    assert 5 < len(rows) < 12 and all(row["labellers"] == ["ann", "bob"] for row in rows)
    assert people[0].prompt.plain not in {row["prompt"] for row in rows}
    assert "calibrates labellers: 1" in shown and "mean rank" in shown
    rate = next(row for row in figures["ratings"]["models"] if row["model"] == "new")["win_rate"]["value"]
    assert f"{100 * rate:.1f}%" in shown and f"{100 * rate:.1f}%" in page


def test_nothing_that_labellers_or_models_say_becomes_markup(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        ranked(
            f"{EVIL} {n}",
            EVIL + who,
            "a>b" if n % 3 else "b>a",
            task="rate",
            models={"a": EVIL + "a", "b": EVIL + "b"},
            texts={"a": EVIL, "b": EVIL + "longer"},
            note=EVIL,
            flag=EVIL if n == 1 else "",
            ratings={"a": {EVIL: 3, f"{EVIL}?": True}, "b": {EVIL: n % 5, f"{EVIL}?": False}},
        )
        for n in range(7)
        for who in ("ann", "bob")
    ]
    rows += [ranked(f"{EVIL} win", EVIL + "ann", "c>a", models={"c": EVIL + "c", "a": EVIL + "a"})]
    file, page = write(tmp_path / f"{EVIL[:8]}.jsonl".replace("/", ""), rows), tmp_path / "page.html"
    assert main(["judgements", str(file), "--html", str(page), *FEW]) == 0
    text = page.read_text()
    tags = _Tags(text)
    assert not tags.tags & {"script", "img", "iframe", "link"} and "onerror" not in tags.names
    assert "&lt;script&gt;" in text and "\x1b" not in text
    assert "\x1b" not in capsys.readouterr().out


def test_the_page_needs_nothing_but_itself(tmp_path: Path, people: list[Judgement]) -> None:
    page = tmp_path / "page.html"
    assert main(["judgements", str(write(tmp_path / "j.jsonl", people)), "--html", str(page), *FEW]) == 0
    text = page.read_text()
    assert not re.search(r"(src|href)=", text) and "url(" not in text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_demonstrations_are_written_for_sft(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrote = replace(ranked("q", "ann", "a>b"), task="demonstrate", answers=(), ranking=(), demonstration="Blue.")
    out = tmp_path / "sft.jsonl"
    assert main(["judgements", str(write(tmp_path / "j.jsonl", [wrote])), "--demonstrations", str(out), *FEW]) == 0
    assert json.loads(out.read_text()).items() >= {"prompt": "q", "response": "Blue."}.items()
    assert "1 demonstration." in capsys.readouterr().out


def test_a_judgement_in_two_files_counts_once(
    tmp_path: Path, people: list[Judgement], capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(write(tmp_path / f"{n}.jsonl", people)) for n in range(2)]
    assert main(["judgements", *files, *FEW]) == 0
    assert capsys.readouterr().out.startswith("24 judgements of 12 prompts by 2 labellers")


def test_whatever_was_judged_has_its_tables_and_no_others(
    tmp_path: Path, people: list[Judgement], capsys: pytest.CaptureFixture[str]
) -> None:
    demonstrated = replace(people[0], task="demonstrate", ranking=(), answers=(), demonstration="x")
    cases = {
        "one judgement": ([people[0]], {"Labellers", "Position and length bias", "Models"}),
        "skipped": ([replace(people[0], ranking=(), skipped="no")], {"Labellers"}),
        "demonstrated": ([demonstrated], {"Labellers"}),
        "a judge alone": (
            [replace(people[0], labeller="j", source="function")],
            {"Labellers", "Position and length bias", "Models"},
        ),
        "one person and one judge": (
            [people[0], replace(people[0], id="j", labeller="j", source="function")],
            {
                "Labellers",
                "Agreement of judges with people",
                "Krippendorff's alpha",
                "Position and length bias",
                "Models",
            },
        ),
    }
    titles = {"Labellers", "Position and length bias", "Models", "Agreement between people", "Krippendorff's alpha"}
    titles |= {"Agreement of judges with people", "Agreement with the known rankings"}
    for name, (judgements, expected) in cases.items():
        file, page = write(tmp_path / f"{name}.jsonl", judgements), tmp_path / "page.html"
        assert main(["judgements", str(file), "--html", str(page), "--json", str(tmp_path / "all.json"), *FEW]) == 0
        lines = set(capsys.readouterr().out.splitlines())
        assert lines & titles == expected, name


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["nowhere.jsonl"], "there is no file nowhere.jsonl"),
        (["empty.jsonl"], "no judgement stands there"),
        (["broken.jsonl"], "broken.jsonl:1: not valid JSON"),
        (["j.jsonl", "--rankings", "j.jsonl"], "is read here, and would be overwritten"),
        (["j.jsonl", "--html", "x", "--json", "x"], "is named for two outputs"),
        (["j.jsonl", "--html", "."], "is a directory"),
        (["j.jsonl", "--html", "/dev/null/x"], "cannot be written"),
        (["j.jsonl", "--demonstrations", "d.jsonl"], "nobody wrote one"),
        (["skipped.jsonl", "--rankings", "r.jsonl"], "no prompt has a ranking to write (skipped by all: 1)"),
        (["j.jsonl", "--resamples", "0"], "--resamples must be above 0"),
        (["j.jsonl", "--source", "people"], "invalid choice: 'people'"),
        (["j.jsonl", "--candidates", "c.jsonl"], "there is no file c.jsonl"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    people: list[Judgement],
    options: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "j.jsonl", people[:4])
    write(tmp_path / "empty.jsonl", [])
    write(tmp_path / "skipped.jsonl", [replace(people[0], ranking=(), skipped="no")])
    (tmp_path / "broken.jsonl").write_text("{\n")
    assert main(["judgements", *options, *(FEW if "--resamples" not in options else [])]) == 2
    error = capsys.readouterr().err
    assert says in error and len(error.splitlines()) == 1


def test_estimates_are_shown_with_what_bounds_them() -> None:
    shown = [
        cell_text(Estimate(0.25, low, high, 9), "share")
        for low, high in ((0.1, 0.4), (None, 0.4), (0.1, None), (None, None))
    ]
    assert shown == ["25.0% (10.0 to 40.0)", "25.0% (below 40.0)", "25.0% (above 10.0)", "25.0%"]
    assert cell_text(Estimate(None, None, None, 0), "share") == "–" == cell_text(None, "count")


def test_an_interval_is_drawn_where_it_lies() -> None:
    column = Column("x", "number", 0.5, (0.0, 1.0))
    text = html_tables([Table("t", "", [Column("who"), column], [("ann", Estimate(0.5, 0.0, 1.0, 3))])])
    assert '<circle cx="44.0"' in text and 'class="interval" x1="4.0" x2="84.0"' in text
    assert 'class="chance" x1="44.0"' in text


def test_labelling_needs_neither_torch_nor_ray() -> None:
    modules = [f"rlhf_dist.labelling.{path.stem}" for path in (ROOT / "rlhf_dist" / "labelling").glob("[!_]*.py")]
    code = (
        f"import sys, importlib\nfor name in {modules + ['rlhf_dist.jobs.judgements']}: importlib.import_module(name)\n"
        "assert not {'torch', 'ray', 'vllm', 'deepspeed', 'transformers', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)
