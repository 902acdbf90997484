"""`rlhf-dist eval-reward`: the scores are those of plain transformers, and what is wrong is said in one line."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhf_dist.__main__ import main
from rlhf_dist.config.schema import ModelConfig
from rlhf_dist.device import CPU
from rlhf_dist.models.language import load_scalar
from tests.tiny import sentence, write_data, write_jsonl, write_reward_model, write_tokenizer

ROOT = Path(__file__).resolve().parents[2]
BIAS = 0.75
EVIL = "<script>alert('x')</script>\x1b[31m"


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """As the reward job saves one: with a bias, and the tokenizer beside it."""
    folder = tmp_path_factory.mktemp("reward") / "model"
    write_reward_model(folder, tiny_model)
    model = load_scalar(ModelConfig(path=str(folder)), CPU)
    model.set_bias(BIAS)
    model.pretrained.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def rewardbench(path: Path, count: int) -> list[dict[str, str]]:
    generator = random.Random(0)
    rows = [
        {
            "prompt": sentence(generator, 3),
            "chosen": " " + sentence(generator, generator.randint(1, 9)),
            "rejected": " " + sentence(generator, generator.randint(1, 9)),
            "subset": generator.choice(["chat", "safety"]),
        }
        for _ in range(count)
    ]
    write_jsonl(path, rows)
    return rows


def test_scores_are_those_of_plain_transformers(reward_model: Path, tmp_path: Path, alone: None) -> None:
    """Each sequence on its own, unpadded; more rows than are scored at a time, of both formats."""
    rows = rewardbench(tmp_path / "bench.jsonl", 70)
    ours = write_data(tmp_path / "ours", 10) / "comparisons.jsonl"
    out = tmp_path / "all.json"
    data = ["--data", str(tmp_path / "bench.jsonl"), "--data", str(ours), "--json", str(out), "--resamples", "20"]
    assert main(["eval-reward", str(reward_model), *data]) == 0

    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    plain = AutoModelForSequenceClassification.from_pretrained(reward_model, num_labels=1)

    def score(prompt: str, answer: str) -> float:
        tokens = tokenizer(prompt)["input_ids"] + tokenizer(answer, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            return float(plain(torch.tensor([[*tokens, tokenizer.eos_token_id]])).logits) + BIAS

    margins = [score(row["prompt"], row["chosen"]) - score(row["prompt"], row["rejected"]) for row in rows]
    for row in map(json.loads, ours.read_text().splitlines()):
        scores = [score(row["prompt"], response) for response in row["responses"]]
        ranked = list(zip(row["ranking"], scores, strict=True))
        margins += [one - other for rank, one in ranked for worse, other in ranked if rank < worse]

    found = json.loads(out.read_text())
    loss = torch.nn.functional.softplus(-torch.tensor(margins, dtype=torch.float64)).mean()
    assert found["loss"] == pytest.approx(float(loss), abs=1e-5)
    everything = found["accuracies"][0]
    assert everything["pairs"] == len(margins) and everything["rows"] == found["rows"] == 80
    assert everything["accuracy"]["value"] == pytest.approx(sum(margin > 0 for margin in margins) / len(margins))
    assert [row["of"] for row in found["accuracies"]] == ["all", "bench.jsonl", "comparisons.jsonl", "chat", "safety"]


def test_the_page_shows_texts_as_texts(
    reward_model: Path, tmp_path: Path, alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {
            "prompt": EVIL,
            "chosen": f" {EVIL} good",
            "rejected": f" {EVIL} bad",
            "subset": EVIL,
            "chosen_model": EVIL,
            "rejected_model": EVIL + "2",
        },
        {"prompt": EVIL, "chosen": f" {EVIL} bad", "rejected": f" {EVIL} good", "subset": EVIL},
    ]
    page = tmp_path / "page.html"
    data = str(write_jsonl(tmp_path / "bench.jsonl", rows))
    assert main(["eval-reward", str(reward_model), "--data", data, "--html", str(page)]) == 0
    text = page.read_text()
    assert "<script" not in text and "&lt;script&gt;" in text and "\x1b" not in text
    assert "Most confident mistakes" in text and "Calibration curve" in text and "By model" in text
    assert "\x1b" not in capsys.readouterr().out


def test_rows_of_rewardbench_have_its_scores(
    reward_model: Path, tmp_path: Path, alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    first = rewardbench(tmp_path / "first.jsonl", 12)
    write_jsonl(tmp_path / "first.jsonl", [row | {"subset": "donotanswer"} for row in first])
    second = [{"prompt": "a", "chosen": [" good"], "rejected": [" bad", " a bad", " so"], "subset": "Precise IF"}]
    for kind, good in (("ref", [" good"]), ("tied", [" good", " a good"])):
        second.append({"prompt": "a", "chosen": good, "rejected": [" bad"], "subset": "Ties", "id": f"{kind}:0"})
    write_jsonl(tmp_path / "second.jsonl", second)
    data = ["--data", str(tmp_path / "first.jsonl"), "--data", str(tmp_path / "second.jsonl")]
    out = tmp_path / "out.json"
    assert main(["eval-reward", str(reward_model), *data, "--json", str(out), "--resamples", "10"]) == 0
    found = json.loads(out.read_text())
    one, two = found["benchmarks"]
    (accuracy,) = [row["accuracy"]["value"] for row in found["accuracies"] if row["of"] == "donotanswer"]
    assert {part["name"]: part["score"] for part in one["parts"]}["Safety"] == pytest.approx(accuracy)
    assert [part["rows"] for part in two["parts"]] == [0, 1, 0, 0, 0, 2]
    assert two["parts"][-1]["score"] is not None and one["score"] is two["score"] is None
    shown = capsys.readouterr().out
    assert "RewardBench 2" in shown and "No score of the whole, as rows are missing: alpacaeval-easy" in shown


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--data", "nowhere.jsonl"], "there is no file nowhere.jsonl"),
        (["--data", "ties.jsonl"], "all answers tie in every row"),
        (["--data", "long.jsonl"], "long.jsonl:1: prompt and answer have"),
        (["--data", "long.jsonl"], "--max-tokens 128: raise it, or let --truncate cut them"),
        (["--data", "bench.jsonl", "--max-tokens", "3"], "more than --max-tokens 3"),
        (["--data", "bench.jsonl", "--json", "bench.jsonl"], "would be overwritten"),
        (["--data", "bench.jsonl", "--category", "topic"], "the field 'topic' is missing"),
        (["--data", "bench.jsonl", "--resamples", "0"], "--resamples must be above 0"),
        ([], "--data"),
    ],
)
def test_a_mistake_is_one_line(
    reward_model: Path,
    tmp_path: Path,
    alone: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    rewardbench(Path("bench.jsonl"), 3)
    write_jsonl(Path("ties.jsonl"), [{"prompt": "p", "responses": ["a", "b"], "ranking": [1, 1]}])
    write_jsonl(Path("long.jsonl"), [{"prompt": "p", "chosen": "good " * 200, "rejected": "bad"}])
    assert main(["eval-reward", str(reward_model), *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert says in error[-1] and len(error) == 1


def test_a_long_row_is_cut_where_that_is_asked_for(reward_model: Path, tmp_path: Path, alone: None) -> None:
    data = write_jsonl(tmp_path / "long.jsonl", [{"prompt": "p", "chosen": "good " * 200, "rejected": "bad"}])
    assert main(["eval-reward", str(reward_model), "--data", str(data), "--truncate"]) == 0


def test_a_language_model_is_refused_rather_than_given_a_random_head(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewardbench(tmp_path / "bench.jsonl", 3)
    one_label = tmp_path / "model"
    shutil.copytree(tiny_model, one_label)
    config = json.loads((one_label / "config.json").read_text())
    (one_label / "config.json").write_text(json.dumps(config | {"id2label": {"0": "score"}}))
    for folder in (tiny_model, one_label):
        assert main(["eval-reward", str(folder), "--data", str(tmp_path / "bench.jsonl")]) == 2
        assert "is no reward model (LlamaForCausalLM)" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_runs_in_a_process_of_its_own(reward_model: Path, tmp_path: Path) -> None:
    rewardbench(tmp_path / "bench.jsonl", 20)
    command = [sys.executable, "-m", "rlhf_dist", "eval-reward", str(reward_model), "--device", "cpu"]
    ended = subprocess.run(
        [*command, "--data", str(tmp_path / "bench.jsonl")], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert "20 rows, 20 pairs" in ended.stdout and "Calibration" in ended.stdout
