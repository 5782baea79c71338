"""The layers of a model as a strip: how far each looks, one cell a layer, told apart by height and not by colour alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gated_configs.memory import Architecture, MemoryEstimate

_HEIGHTS: Final = {
    "full": 24,
    "hybrid": 20,
    "chunked": 16,
    "sliding": 14,
    "shared": 10,
    "recurrent": 8,
    "none": 4,
}
_WORDS: Final = {
    "full": "full attention",
    "hybrid": "attention and recurrence side by side",
    "chunked": "chunked attention",
    "sliding": "sliding window",
    "shared": "cache shared with an earlier layer",
    "recurrent": "recurrent, a state of fixed size",
    "none": "no attention",
}
_CELL: Final = 10


@dataclass(frozen=True)
class LayerCell:
    """One layer of the strip."""

    pattern: str
    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class LayerWords:
    """One pattern in words, with its sign: `y` and `height` in percent."""

    pattern: str
    words: str
    y: int
    height: int


@dataclass(frozen=True)
class Layers:
    """The strip, its words, and what a token costs."""

    count: str
    extent: int
    label: str
    cells: tuple[LayerCell, ...]
    lines: tuple[LayerWords, ...]
    per_token: str


def layers_of(architecture: Architecture, result: MemoryEstimate) -> Layers | None:
    """The strip of a model; None where its layers keep and see nothing worth drawing."""
    patterns = _patterns(architecture)
    if not patterns:
        return None
    counts: dict[str, int] = {}
    for pattern in patterns:
        counts[pattern] = counts.get(pattern, 0) + 1
    windows = {state.pattern: state.window for state in architecture.states if state.window is not None}
    lines = []
    for pattern, count in sorted(counts.items(), key=lambda item: -_HEIGHTS.get(item[0], 4)):
        words = f"{count} × {_WORDS.get(pattern, pattern)}"
        if pattern in windows:
            words += f" of {windows[pattern]:,} tokens"
        share = round(100 * _HEIGHTS.get(pattern, 4) / 24)
        lines.append(LayerWords(pattern, words, 100 - share, share))
    cells = tuple(
        LayerCell(pattern, index * _CELL, 24 - _HEIGHTS.get(pattern, 4), _CELL - 2, _HEIGHTS.get(pattern, 4))
        for index, pattern in enumerate(patterns)
    )
    per_token = ""
    if result.cache_bytes_per_token:
        per_token = f"One more token adds {result.cache_bytes_per_token:,} bytes to a sequence’s cache"
        per_token += ", until the windows are full." if windows else "."
    label = ", ".join(line.words for line in lines)
    return Layers(f"{len(patterns):,}", len(patterns) * _CELL - 2, label, cells, tuple(lines), per_token)


def _patterns(architecture: Architecture) -> list[str]:
    """The pattern of every layer in order; where only counts are known, one kind after the other."""
    placed = {index: state.pattern for state in architecture.states for index in state.layers}
    if placed:
        return [
            placed.get(index, "none") for index in range(max(*placed, architecture.shapes.layers - 1) + 1)
        ]
    return [name for name, count in architecture.attention_patterns.items() for _ in range(count)]
