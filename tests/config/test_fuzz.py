"""Whatever stands in a recipe or on the command line: a configuration, or one line, and soon."""

from __future__ import annotations

import time
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rlhf_dist.config.keys import schema_keys
from rlhf_dist.config.load import load_config
from rlhf_dist.config.resolve import resolve_ppo
from rlhf_dist.config.schema import PPOConfig
from rlhf_dist.config.validate import validate_ppo
from rlhf_dist.errors import UserError

LONG_S = 20.0  # of a file of a few hundred bytes, on a machine that does other things beside
FEW = settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

keys = st.sampled_from([*schema_keys(PPOConfig), "actor", "rewards.polite.weight", "base", "rewards", ""])
scalars = st.sampled_from(
    [
        "1",
        "0",
        "-1",
        "1e400",
        ".nan",
        "nan",
        "inf",
        "9" * 400,
        "9" * 5000,
        "true",
        "null",
        "~",
        "a:b",
        "[1, 2]",
        "[[a]]",
    ]
    + ["*a", "&a [*a]", "{a: 1}", "!!python/object:os.system x", "'\\ud800'", '"\\ud800"', '"\\0"', "${x}", "???", "<<"]
    + ["2026-13-45", "0x", "1_0", ">", "|", "'", "@", "`", "%", "[" * 2000, "x" * 300, "/" * 5000, "../" * 2000]
)
texts = st.text(max_size=20) | scalars
lines = st.lists(st.tuples(st.integers(0, 3), keys | texts, texts), max_size=8).map(
    lambda rows: "\n".join(f"{' ' * indent}{key}: {value}" for indent, key, value in rows)
)
RECIPE = Path(__file__).resolve().parents[2] / "configs/ppo_llama.yaml"


def read(*words: str) -> None:
    """Reads and checks a configuration; a mistake is one line."""
    started, said = time.monotonic(), ""
    try:
        validate_ppo(resolve_ppo(load_config(PPOConfig, words, RECIPE)), check_paths=False)
    except UserError as error:
        said = str(error)
    assert said.isprintable()
    assert len(said) < 2100
    assert time.monotonic() - started < LONG_S


@FEW
@given(content=st.binary(max_size=200) | lines.map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(content=b"[" * 100_000)
@example(content=b"{a: " * 10_000)
@example(content=b"a: &a [*a]\nplacement: *a")
@example(content=b"? {a: 1}\n: 2")
def test_any_file_is_a_configuration_or_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    read("--config", str(path))


@FEW
@given(words=st.lists(st.tuples(keys, texts).map("=".join) | texts, max_size=4))
@example(words=["placement=" + "[" * 5000])
@example(words=["placement=[[&a [actor, actor], *a]]"])
@example(words=["placement=2026-13-45"])
@example(words=["cluster.ports=" + "9" * 5000 + "-1"])
def test_any_command_line_is_a_configuration_or_one_line(words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("run: {name: r}\ndata: {path: d}\nactor: {model: {path: m}}\nreward: {model: {path: w}}\n")
    read("--config", str(path), *(word for word in words if word not in ("--help", "-h", "--config")))
