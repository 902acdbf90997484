"""`python -m rlhf_dist export` against what the run itself writes, file by file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf_dist.__main__ import main
from rlhf_dist.config.schema import AdapterConfig, ModelConfig, OptimConfig, TrainedRoleConfig
from rlhf_dist.controller.checkpoints import MANIFEST, write_manifest
from rlhf_dist.device import CPU
from rlhf_dist.engine.function_reward import FunctionScorer
from rlhf_dist.engine.policy import ActorEngine
from rlhf_dist.engine.scalar import TrainedRewardEngine
from rlhf_dist.engine.text_reward import TextReward
from tests.engine.test_zero import comparisons, sequences, text
from tests.tiny import write_model


def trained(folder: Path, kind: str, lora: int = 0, **settings: Any) -> Any:
    """An engine that has learned a step on a model in ``folder``, as role ``kind`` of a checkpoint written there."""
    if not (folder / "base").exists():
        write_model(folder / "base", tied=kind == "actor")
    fields = {"dtype": "float32", "path": str(folder / "base"), **settings}
    config = TrainedRoleConfig(
        model=ModelConfig(**fields), lora=AdapterConfig(rank=lora), optim=OptimConfig(lr=1e-2), ema_decay=0.6
    )
    engine: Any = ActorEngine(config, CPU, 1.0, 9) if kind == "actor" else TrainedRewardEngine(config, CPU, 9)
    if kind == "actor":
        engine.fit(text(), None)
    else:
        engine.fit(comparisons())
        engine.shift(0.625)
    engine.save_checkpoint(folder / "step-1" / kind)
    made_whole(folder / "step-1")
    engine.save_model(folder / "saved", fields["path"])
    return engine


def made_whole(checkpoint: Path) -> None:
    """Writes the manifest, as the controller does."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    write_manifest(checkpoint, {})


def same_files(one: Path, other: Path) -> None:
    assert sorted(file.name for file in one.iterdir()) == sorted(file.name for file in other.iterdir())
    for file in one.iterdir():
        assert file.read_bytes() == (other / file.name).read_bytes(), file.name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [0, 2])
@pytest.mark.parametrize("kind", ["actor", "reward"])
def test_what_is_exported_is_what_the_run_writes(alone: None, tmp_path: Path, kind: str, lora: int, dtype: str) -> None:
    trained(tmp_path, kind, lora, dtype=dtype)
    assert main(["export", str(tmp_path / "step-1"), str(tmp_path / "out")]) == 0
    same_files(tmp_path / "out", tmp_path / "saved")
    assert main(["export", str(tmp_path / "step-1"), str(tmp_path / "mean"), "--average", "--role", kind]) == 0
    same_files(tmp_path / "mean", tmp_path / "saved_ema")
    assert (tmp_path / "mean/model.safetensors").read_bytes() != (tmp_path / "out/model.safetensors").read_bytes()
    if kind == "reward":
        assert json.loads((tmp_path / "out/config.json").read_text())["score_bias"] == 0.625


def said(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line that an export ends with, in exit code 2."""
    capsys.readouterr()
    assert main(["export", *map(str, arguments)]) == 2
    text = capsys.readouterr().err.strip()
    assert text and "\n" not in text
    return text


def test_mistakes_are_one_line_and_leave_nothing(
    alone: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = trained(tmp_path, "actor", lora=2)
    step, out = tmp_path / "step-1", tmp_path / "out"
    assert "exists" in said(capsys, step, tmp_path / "saved")
    assert "is not a checkpoint" in said(capsys, tmp_path / "base", out)
    assert "no role actr (did you mean actor?)" in said(capsys, step, out, "--role", "actr")
    shutil.copytree(step / "actor", step / "critic")
    shutil.copytree(step / "actor", step / "other")
    (step / "actor/state.json").unlink()
    made_whole(step)
    assert "choose one with --role" in said(capsys, step, out)
    shutil.move(tmp_path / "base", tmp_path / "moved")
    assert "cannot be loaded" in said(capsys, step, out, "--role", "critic")
    assert main(["export", str(step), str(out), "--role", "critic", "--base", str(tmp_path / "moved")]) == 0
    same_files(out, tmp_path / "saved")
    shutil.rmtree(out)
    write_model(tmp_path / "base", seed=9)
    assert "is not the base" in said(capsys, step, out, "--role", "critic")
    engine.runner.average = None
    engine.save_checkpoint(tmp_path / "other/actor")
    assert "is not a complete checkpoint: it has no manifest" in said(capsys, tmp_path / "other", out)
    made_whole(tmp_path / "other")
    assert "no moving average" in said(capsys, tmp_path / "other", out, "--average")
    (file,) = (tmp_path / "other/actor").glob("weights-*")
    file.write_bytes(b"x" * 100)
    assert f"is not a complete checkpoint: actor/{file.name} has 100 bytes" in said(capsys, tmp_path / "other", out)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


@pytest.mark.slow
def test_it_needs_neither_ray_nor_deepspeed_nor_vllm(alone: None, tmp_path: Path) -> None:
    trained(tmp_path, "actor")
    code = (
        "import sys\nfor name in ('ray', 'deepspeed', 'vllm'): sys.modules[name] = None\n"
        "from rlhf_dist.__main__ import main\n"
        "sys.exit(main(['export', 'step-1', 'out']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout) == (0, "out\n"), done.stderr
    same_files(tmp_path / "out", tmp_path / "saved")


CODE = {
    "configuration_own.py": (
        "from transformers import LlamaConfig\n\n\nclass OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
    ),
    "modeling_own.py": (
        "from transformers import LlamaForCausalLM\n\nfrom .configuration_own import OwnConfig\n\n\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    ),
    "tokenization_own.py": (
        "from transformers import PreTrainedTokenizerFast\n\n\nclass OwnTokenizer(PreTrainedTokenizerFast):\n"
        "    own = True\n"
    ),
}


def write_own_model(folder: Path) -> Path:
    """A model and a tokenizer that bring classes of their own."""
    write_model(folder)
    for name, code in CODE.items():
        (folder / name).write_text(code)
    changes: dict[str, dict[str, Any]] = {
        "config.json": {
            "model_type": "own",
            "architectures": ["OwnModel"],
            "auto_map": {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"},
        },
        "tokenizer_config.json": {
            "tokenizer_class": "OwnTokenizer",
            "auto_map": {"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]},
        },
    }
    for name, fields in changes.items():
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | fields))
    return folder


def test_a_model_with_code_of_its_own_is_saved_and_exported_with_it(
    alone: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_own_model(tmp_path / "base")
    trained(tmp_path, "actor", trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", trust_remote_code=True)
    assert type(model).__name__ == "OwnModel"
    assert "--trust-remote-code" in said(capsys, tmp_path / "step-1", tmp_path / "out")
    shutil.rmtree(path)
    assert main(["export", str(tmp_path / "step-1"), str(tmp_path / "out"), "--trust-remote-code"]) == 0
    same_files(tmp_path / "out", tmp_path / "saved")
    (tmp_path / "long.py").write_text("def score(prompts, responses):\n    return [1.0 for r in responses]\n")
    scorer = FunctionScorer(f"{tmp_path / 'long.py'}:score", timeout_s=5.0)
    reward = TextReward(scorer, str(tmp_path / "out"), True, rank=0, world=1)
    given = sequences()
    assert reward.tokenizer.own
    scores = torch.split(reward.token_scores(given), given.response_lengths.tolist())
    assert [row.tolist() for row in scores] == [[0.0] * (len(row) - 1) + [1.0] for row in scores]
