"""What `manage.py benchmark engine` measures: takes in their middle, which have all read what comes before it."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest
import torch

from musicgen_site.benchmarks.engine import _Engine


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_take_has_read_its_beginning(mono: Path, kernels_folder: Path, dtype: str) -> None:
    engine = _Engine(mono, dtype, "cpu")
    first, *others = engine._batch(1, 20).takes + engine._batch(2, 20).takes
    own = [*chain.from_iterable(first.memory.own)]
    assert all(each.count_nonzero() for each in own)
    for take in others:
        assert take.memory.position == first.memory.position == 20
        found = [*chain.from_iterable(take.memory.own)]
        assert all(a.data_ptr() != b.data_ptr() for a, b in zip(found, own, strict=True))
        # As bytes: what is not written yet may be no number.
        assert all(
            torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in zip(found, own, strict=True)
        )
