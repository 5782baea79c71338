"""Reads the header of a safetensors file: the names, types, shapes and places of its tensors, and none of their values.

Trusts no number in it. Knows neither torch nor what the tensors are for.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from adapters.format.errors import BrokenAdapter, NotAnAdapter

MAX_HEADER_BYTES: Final = 16 * 1024 * 1024
MAX_TENSORS: Final = 100_000
_MAX_NAME_CHARACTERS: Final = 500
_MAX_DIMENSIONS: Final = 8
_MAX_DIMENSION: Final = 2**40

#: Bytes of one value, by the name of its type.
DTYPE_BYTES: Final = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}


@dataclass(frozen=True)
class TensorEntry:
    """One tensor: its type, its shape, and where its bytes begin and end in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class WeightsHeader:
    """The tensors of a file by name, in the file's order, what its maker wrote beside them, and the file's size."""

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]
    file_bytes: int


def read_header(path: Path) -> WeightsHeader:
    """Read and check the header of a file.

    Raises NotAnAdapter for what is no safetensors file, BrokenAdapter for one that is cut off or contradicts itself,
    OSError as reading does.
    """
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        content = _header_bytes(file, file_bytes)
    try:
        header = json.loads(content.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        if isinstance(error, BrokenAdapter):
            raise
        raise _no_safetensors(f"its header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise _no_safetensors("its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged("its metadata is no list of texts")
    if len(header) > MAX_TENSORS:
        raise _damaged(f"it names {len(header)} tensors")
    first_byte = 8 + len(content)
    tensors = {name: _entry(name, told, first_byte) for name, told in header.items()}
    _check_places(tensors, first_byte, file_bytes)
    return WeightsHeader(tensors=tensors, metadata=metadata, file_bytes=file_bytes)


def _header_bytes(file: BinaryIO, file_bytes: int) -> bytes:
    if file_bytes == 0:
        raise BrokenAdapter("WEIGHTS_EMPTY", "The weights file is empty. Copy or download it again.")
    beginning = file.read(8)
    if len(beginning) < 8:
        raise _no_safetensors(f"it has {file_bytes} bytes")
    (length,) = struct.unpack("<Q", beginning)
    first = file.read(1)
    file.seek(8)
    if first != b"{":
        raise _no_safetensors(f"it begins with {beginning!r}{first!r}")
    if length > MAX_HEADER_BYTES:
        raise _damaged(f"its header claims {length} bytes")
    if length > file_bytes - 8:
        raise _cut_off(f"a header of {length} bytes in a file of {file_bytes}")
    content = file.read(length)
    if len(content) != length:
        raise _cut_off(f"{len(content)} of {length} bytes of the header are there")
    return content


def _entry(name: str, told: Any, first_byte: int) -> TensorEntry:
    """Check what the header tells of one tensor."""
    shown = name[:100]
    if len(name) > _MAX_NAME_CHARACTERS or not name.isprintable():
        raise _damaged(f"a tensor has a name that is none: {shown!r}")
    if not isinstance(told, dict) or set(told) != {"dtype", "shape", "data_offsets"}:
        raise _damaged(f"the entry of {shown} is malformed")
    dtype, shape, offsets = told["dtype"], told["shape"], told["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _damaged(f"{shown} is of an unknown type, {str(dtype)[:40]!r}")
    if (
        not isinstance(shape, list)
        or len(shape) > _MAX_DIMENSIONS
        or not all(_is_size(size) for size in shape)
    ):
        raise _damaged(f"{shown} has a shape that is none")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(place) for place in offsets):
        raise _damaged(f"{shown} lies nowhere")
    start, end = offsets
    if end - start != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise _damaged(f"{shown} has {end - start} bytes, and its shape {shape} needs others")
    return TensorEntry(dtype=dtype, shape=tuple(shape), start=first_byte + start, end=first_byte + end)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_DIMENSION


def _check_places(tensors: dict[str, TensorEntry], first_byte: int, file_bytes: int) -> None:
    """The tensors fill the file, one after another, without gaps: there is nothing in it that the header hides."""
    place = first_byte
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != place:
            raise _damaged(f"{name[:100]} overlaps another tensor, or bytes before it belong to none")
        place = entry.end
    if place > file_bytes:
        raise _cut_off(f"{file_bytes} of {place} bytes are there")
    if place < file_bytes:
        raise _damaged(f"{file_bytes - place} bytes after the last tensor")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a name that is there twice: two readers could take different tensors for it."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise _damaged("its header names something twice")
    return table


def _no_constant(name: str) -> Any:
    raise _damaged(f"its header holds {name}")


def _cut_off(detail: str) -> BrokenAdapter:
    return BrokenAdapter(
        "WEIGHTS_TRUNCATED", "The weights file is cut off. Copy or download it again, to its end.", detail
    )


def _damaged(detail: str) -> BrokenAdapter:
    return BrokenAdapter("WEIGHTS_DAMAGED", "The weights file is damaged. Copy or download it again.", detail)


def _no_safetensors(detail: str) -> NotAnAdapter:
    return NotAnAdapter(
        "NOT_SAFETENSORS",
        "The weights are not a safetensors file. Save the adapter as safetensors (save_pretrained of peft does so).",
        detail,
    )
