"""What the parts share: their arguments, what they hand back, and the models they work on."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf_dist.device import Device

ROOT = Path(__file__).resolve().parents[2]
GIB = 1 << 30
_STARTED = time.monotonic()

# Llamas by size: the first is Llama 3.2 1B's shape. All have one vocabulary, but for the one that tests take.
SHAPES: dict[str, dict[str, int]] = {
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
    "0.4B": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 16, "num_attention_heads": 16},
    "0.1B": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 8},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
}
PARAMETERS = {"1B": 1.24e9, "0.4B": 0.38e9, "0.1B": 0.1e9, "tiny": 0.1e6}
TRAINING_BYTES = 32  # of a parameter that learns in bfloat16 under AdamW, with room for activations
FROZEN_BYTES = 4  # of one that only runs, with room for a cache


class Skip(Exception):
    """Why a part cannot run here."""


@dataclass
class Findings:
    """What a part has found so far: it is written down also where the part fails later.

    Attributes:
        figures: (what, value, unit).
        notes: sentences about how it was measured.
        failures: the checks that failed, one line each.
    """

    figures: list[tuple[str, float, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def figure(self, what: str, value: float, unit: str) -> None:
        """Notes a number, and shows it."""
        self.figures.append((what, float(value), unit))
        say(f"{what}: {value:.6g} {unit}")

    def note(self, text: str) -> None:
        """Notes a sentence, and shows it."""
        self.notes.append(text)
        say(text)

    def check(self, holds: bool, otherwise: str) -> None:
        """Notes a failure, where a promise does not hold; the part goes on."""
        if not holds:
            self.failures.append(otherwise)
            say(f"FAILED: {otherwise}")


def say(text: str) -> None:
    """Prints a line, with the seconds since the process began to import this."""
    print(f"[{time.monotonic() - _STARTED:5.1f} s] {text}", flush=True)


@dataclass(frozen=True)
class Settings:
    """A part's arguments.

    Attributes:
        device: what it runs on.
        tiny: a tiny shape and few steps, for this program's own test.
        rollout: "vllm" or "hf".
        work: folder for what the parts make and share, as models.
        variant: which one, of a part that comes in several.
    """

    device: Device
    tiny: bool
    rollout: str
    work: Path
    variant: str

    def shape(self, bytes_per_parameter: float, share: float = 0.8) -> str:
        """The largest shape that takes so many bytes a parameter within ``share`` of the device's memory."""
        if self.tiny:
            return "tiny"
        room = share * self.device.memory_bytes()
        return next(name for name in SHAPES if PARAMETERS[name] * bytes_per_parameter <= room or name == "0.1B")


def run_part(main: Callable[[Settings, Findings], None]) -> int:
    """Runs a part with the arguments of its process, writes what it found, and returns its exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--rollout", default="hf", choices=("vllm", "hf"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--variant", default="")
    options = parser.parse_args()
    from rlhf_dist.device import DEVICES

    found = Findings()
    outcome, reason = "passed", ""
    try:
        main(Settings(DEVICES[options.device], options.tiny, options.rollout, options.work, options.variant), found)
    except Skip as error:
        outcome, reason = "skipped", str(error)
    except Exception as error:
        traceback.print_exc()
        found.failures.append(first_line(error))
    if found.failures:
        outcome, reason = "failed", found.failures[0]
    options.json.write_text(json.dumps({"outcome": outcome, "reason": reason, **asdict(found)}))
    say(f"{outcome}: {reason}" if reason else outcome)
    return int(outcome == "failed")


def first_line(error: BaseException) -> str:
    """The error in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)


def llama_config(shape: str) -> Any:
    """The configuration of a shape."""
    from transformers import LlamaConfig

    tiny = shape == "tiny"
    return LlamaConfig(
        **SHAPES[shape],
        num_key_value_heads=1 if tiny else 8,
        head_dim=32 if tiny else 64,
        vocab_size=320 if tiny else 128256,
        max_position_embeddings=256 if tiny else 8192,
        tie_word_embeddings=True,
        # Wide, so that weights which did not arrive show in the log-probabilities.
        initializer_range=0.08 if tiny else 0.03,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def made_model(settings: Settings, shape: str) -> Path:
    """A folder with a Llama of that shape with random weights, and a tokenizer: made once, by the first who asks."""
    import torch
    from transformers import LlamaForCausalLM

    from tests.tiny import write_tokenizer

    folder = settings.work / f"llama-{shape}"
    if folder.is_dir():
        return folder
    beside = folder.with_name(f"{folder.name}.{os.getpid()}")
    beside.mkdir(parents=True)
    torch.manual_seed(0)
    with torch.device(settings.device.torch_device()):
        model = LlamaForCausalLM(llama_config(shape))
    model.to("cpu", dtype=settings.device.dtype("auto")).save_pretrained(beside)
    write_tokenizer(beside)
    del model
    settings.device.empty_cache()
    try:
        beside.rename(folder)
    except OSError:  # another one was faster
        shutil.rmtree(beside)
    return folder


def used_bytes(device: Device) -> int:
    """Bytes of the device's memory that are taken, whoever has them; 0 without an accelerator."""
    if not device.is_accelerator:
        return 0
    free, total = device.module().mem_get_info()
    return total - free
