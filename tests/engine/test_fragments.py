"""Tensors in pieces: whoever cut them, any part is read back, and little is held while writing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_dist.engine.fragments import Fragments, write_fragments
from rlhf_dist.errors import UserError

SIZES = {"a.weight": 40, "b": 1, "c[0]": 17}


@settings(max_examples=30, deadline=None)
@given(data=st.data(), limit=st.integers(1, 200), world=st.integers(1, 3))
def test_any_part_is_read_back_however_the_pieces_were_cut(data: st.DataObject, limit: int, world: int) -> None:
    with TemporaryDirectory() as name:
        folder, whole = Path(name), {name: torch.randn(size) for name, size in SIZES.items()}
        cuts = {
            name: sorted([0, size, *data.draw(st.lists(st.integers(0, size), min_size=world - 1, max_size=world - 1))])
            for name, size in SIZES.items()
        }
        for rank in range(world):
            parts = [(name, cuts[name][rank], whole[name][cuts[name][rank] : cuts[name][rank + 1]]) for name in SIZES]
            write_fragments(folder, "weights", rank, world, parts, limit)
        read = Fragments(folder, "weights")
        read.check(SIZES)
        for name, size in SIZES.items():
            start = data.draw(st.integers(0, size))
            count = data.draw(st.integers(0, size - start))
            assert torch.equal(read.read(name, start, count), whole[name][start : start + count])


def test_a_file_at_a_time_is_held(tmp_path: Path) -> None:
    files_at: list[int] = []

    def parts() -> Iterator[tuple[str, int, Tensor]]:
        for number in range(10):
            files_at.append(len(list(tmp_path.iterdir())))
            yield f"p{number}", 0, torch.full((256,), float(number))

    write_fragments(tmp_path, "weights", 0, 1, parts(), limit=2048)
    assert files_at == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4]
    assert max(file.stat().st_size for file in tmp_path.iterdir()) < 2048 + 500


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    write_fragments(tmp_path, "weights", 0, 2, [("a", 0, torch.zeros(5)), ("b", 3, torch.zeros(2))])
    read = Fragments(tmp_path, "weights")
    read.check({"a": 5})
    for wrong in ({"a": 6}, {"b": 5}, {"c": 1}):
        with pytest.raises(UserError, match=f"weights {next(iter(wrong))} is incomplete"):
            read.check(wrong)
    assert Fragments(tmp_path, "exp_avg").names == set()
