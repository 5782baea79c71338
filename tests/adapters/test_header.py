"""The header of a safetensors file: read where it is sound, refused by name where it lies."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from adapters.format.errors import AdapterRefused, BrokenAdapter, NotAnAdapter
from adapters.format.safetensors_header import MAX_HEADER_BYTES, read_header
from adapters.format.tensors import look_at_values


def write(path: Path, header: Any, content: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + content)
    return path


def tensor(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@given(
    arrays=st.dictionaries(
        st.text("abcdefgh._0123456789", min_size=1, max_size=30),
        of_numpy.arrays(
            dtype=st.sampled_from(["float32", "float16", "float64", "int64", "uint8"]),
            shape=of_numpy.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_it_reads_what_the_library_writes(
    arrays: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("header") / "x.safetensors"
    save_file(arrays, path, metadata={"format": "pt"})
    header = read_header(path)
    assert {name: entry.shape for name, entry in header.tensors.items()} == {
        name: array.shape for name, array in arrays.items()
    }
    content = path.read_bytes()
    assert all(
        content[entry.start : entry.end] == arrays[name].tobytes() for name, entry in header.tensors.items()
    )
    assert header.metadata == {"format": "pt"}
    assert header.file_bytes == len(content)


@pytest.mark.parametrize(
    ("header", "content"),
    [
        pytest.param({"a": tensor(0, 8, [2])}, b"12345678tail", id="bytes after the last tensor"),
        pytest.param({"a": tensor(4, 8, [1])}, b"12345678", id="a gap before the first"),
        pytest.param({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, b"0" * 12, id="overlap"),
        pytest.param({"a": tensor(0, 8, [3])}, b"12345678", id="a shape that needs other bytes"),
        pytest.param({"a": tensor(8, 0, [2])}, b"12345678", id="end before start"),
        pytest.param({"a": tensor(0, 8, [2], "F31")}, b"12345678", id="unknown type"),
        pytest.param({"a": tensor(0, 8, [-2, -1])}, b"12345678", id="negative sizes"),
        pytest.param({"a": tensor(0, 4, [True])}, b"1234", id="a size that is true"),
        pytest.param({"a": tensor(0, 0, [0, 2**50])}, b"", id="a huge size"),
        pytest.param({"a": {"dtype": "F32", "shape": [1]}}, b"1234", id="no place"),
        pytest.param({"a": {**tensor(0, 4, [1]), "more": 1}}, b"1234", id="an entry with more"),
        pytest.param({"a\0b": tensor(0, 4, [1])}, b"1234", id="a name with a zero byte"),
        pytest.param({"x" * 600: tensor(0, 4, [1])}, b"1234", id="an endless name"),
        pytest.param({"__metadata__": {"a": 1}, "b": tensor(0, 4, [1])}, b"1234", id="metadata of numbers"),
        pytest.param(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            b"1234",
            id="a name twice",
        ),
        pytest.param(b'{"a":NaN}', b"", id="NaN"),
    ],
)
def test_a_header_that_lies_is_damaged(header: Any, content: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", header, content)
    with pytest.raises(BrokenAdapter, match="damaged") as refused:
        read_header(path)
    assert refused.value.code == "WEIGHTS_DAMAGED"


@pytest.mark.parametrize("missing", [1, 4, 7])
def test_a_file_that_ends_early_is_cut_off(missing: int, tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", {"a": tensor(0, 8, [2])}, b"12345678"[:-missing])
    with pytest.raises(BrokenAdapter, match="cut off") as refused:
        read_header(path)
    assert refused.value.code == "WEIGHTS_TRUNCATED"


def test_a_header_that_ends_early_is_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", b'{"a":', length=5000)
    with pytest.raises(BrokenAdapter, match="cut off"):
        read_header(path)


def test_a_header_beyond_the_bound_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", b"{}", length=MAX_HEADER_BYTES + 1)
    with pytest.raises(BrokenAdapter, match="damaged"):
        read_header(path)


def test_an_empty_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.touch()
    with pytest.raises(BrokenAdapter, match="empty"):
        read_header(path)


@pytest.mark.parametrize(
    "content", [b"abc", b"\x80\x02}q\x00.", b"<html>no</html>", struct.pack("<Q", 4) + b"[1]]"]
)
def test_other_files_are_no_safetensors(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(NotAnAdapter, match="safetensors"):
        read_header(path)


def test_deep_nesting_is_refused_and_does_not_crash(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}")
    with pytest.raises(AdapterRefused):
        read_header(path)


@given(content=st.binary(max_size=300), claims=st.integers(0, 400))
def test_no_bytes_at_all_make_it_fail_otherwise(
    content: bytes, claims: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    path.write_bytes(struct.pack("<Q", claims) + b"{" + content)
    with pytest.raises(AdapterRefused):
        read_header(path)


# --- values ---


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("value", "is_finite", "is_zero"),
    [
        (0.0, True, True),
        (-0.0, True, True),
        (6e-8, True, False),
        (-3.0, True, False),
        (float("nan"), False, False),
        (float("inf"), False, False),
        (float("-inf"), False, False),
    ],
)
def test_values_are_seen_in_every_precision(
    dtype: torch.dtype, value: float, is_finite: bool, is_zero: bool, tmp_path: Path
) -> None:
    # One value among zeros, far behind the first block that is read.
    values = torch.zeros(3, 1024, 1024, dtype=dtype)
    values[-1, -1, -1] = value
    assert bool(values.isfinite().all()) == is_finite
    assert bool((values == 0).all()) == is_zero
    path = tmp_path / "x.safetensors"
    save_torch({"other": torch.ones(4, dtype=dtype), "values": values}, path)
    seen = look_at_values(path, read_header(path).tensors.items())
    assert seen["values"].is_finite == is_finite
    if is_finite:
        assert seen["values"].is_all_zero == is_zero
    assert (seen["other"].is_finite, seen["other"].is_all_zero) == (True, False)


@given(
    array=of_numpy.arrays(
        dtype=st.sampled_from([np.float16, np.float32, np.float64]), shape=st.integers(1, 20), elements=None
    )
)
def test_values_agree_with_numpy(array: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("values") / "x.safetensors"
    save_file({"a": array}, path)
    seen = look_at_values(path, read_header(path).tensors.items())["a"]
    assert seen.is_finite == bool(np.isfinite(array).all())
    if seen.is_finite:
        assert seen.is_all_zero == (not array.any())
