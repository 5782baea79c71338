"""Looks at the values of an adapter's tensors, a block at a time: are they numbers, and are they all zero.

Needs numpy and no torch; nothing of a file is ever run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from adapters.format.errors import BrokenAdapter
from adapters.format.safetensors_header import TensorEntry

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Types that an adapter's values may have.
FLOATS: Final = frozenset({"F16", "BF16", "F32", "F64"})

_BLOCK_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True)
class TensorValues:
    """What was seen of a tensor's values."""

    is_finite: bool
    is_all_zero: bool


def look_at_values(path: Path, tensors: Iterable[tuple[str, TensorEntry]]) -> dict[str, TensorValues]:
    """Read the tensors' values from the file and tell of each what they are.

    Raises BrokenAdapter where the file ends early, OSError as reading does; the types must be those of FLOATS.
    """
    seen: dict[str, TensorValues] = {}
    with path.open("rb") as file:
        for name, entry in sorted(tensors, key=lambda item: item[1].start):
            file.seek(entry.start)
            left = entry.end - entry.start
            blocks: list[tuple[bool, bool]] = []
            while left and all(finite for finite, _ in blocks[-1:]):
                block = file.read(min(left, _BLOCK_BYTES))
                if not block:
                    raise BrokenAdapter(
                        "WEIGHTS_TRUNCATED",
                        "The weights file is cut off. Copy or download it again, to its end.",
                    )
                left -= len(block)
                blocks.append(_judge(block, entry.dtype))
            seen[name] = TensorValues(
                is_finite=all(finite for finite, _ in blocks), is_all_zero=all(zero for _, zero in blocks)
            )
    return seen


#: The bits of a value's exponent, by type: all set means infinite or not a number. One more bit is the sign.
_EXPONENT: Final = {
    "F16": ("<u2", 0x7C00, 0x7FFF),
    "BF16": ("<u2", 0x7F80, 0x7FFF),
    "F32": ("<u4", 0x7F80_0000, 0x7FFF_FFFF),
    "F64": ("<u8", 0x7FF0_0000_0000_0000, 0x7FFF_FFFF_FFFF_FFFF),
}


def _judge(block: bytes, dtype: str) -> tuple[bool, bool]:
    """Whether all values are finite, and whether all are zero. Blocks hold whole values: their size is a multiple."""
    # Imported here: numpy takes longer to start than a page that shows no new adapter.
    import numpy as np

    kind, exponent, unsigned = _EXPONENT[dtype]
    bits: NDArray[np.unsignedinteger] = np.frombuffer(block, dtype=kind)
    is_finite = not bool(((bits & exponent) == exponent).any())
    return is_finite, not bool((bits & unsigned).any())
