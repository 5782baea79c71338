"""The stacked bar of where the memory goes, as numbers for a drawing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gated_configs.memory import Card, MemoryEstimate
from gated_configs.pages.units import in_decimal, percent

#: A narrower part, in percent, would vanish behind its own border.
_THIN: Final = 1.0


@dataclass(frozen=True)
class BarPart:
    """One part of the bar; `x` and `width` in percent."""

    name: str
    x: float
    width: float
    title: str
    is_thin: bool


@dataclass(frozen=True)
class Bar:
    """A bar to scale. `card_width` is how far the card reaches where it has room left, `limit_x` where it ends."""

    parts: tuple[BarPart, ...]
    label: str
    card_width: float | None = None
    limit_x: float | None = None
    scale: str = ""


def memory_bar(result: MemoryEstimate, card: Card | None, *, full_bytes: int = 0) -> Bar:
    """The bar of one estimate. It ends at the larger of the card and the total, or at `full_bytes`."""
    total = result.total_bytes
    memory = card.memory_bytes if card is not None else 0
    full = full_bytes or max(total, memory)
    parts = []
    start = 0
    for name, size in result.breakdown().items():
        if size:
            width = percent(size, full)
            title = f"{name}: {in_decimal(size)}"
            parts.append(BarPart(name, percent(start, full), width, title, width < _THIN))
        start += size
    spoken = ", ".join(f"{name} {in_decimal(size)}" for name, size in result.breakdown().items())
    label = f"{in_decimal(total)}: {spoken}"
    if card is None or full_bytes:
        return Bar(tuple(parts), label, card_width=100.0 if full_bytes else None)
    label += f"; {card.name} has {in_decimal(memory)}"
    scale = f"{card.name}: {in_decimal(memory)}"
    if total <= memory:
        return Bar(tuple(parts), label, card_width=100.0, scale=scale)
    return Bar(tuple(parts), label, limit_x=percent(memory, full), scale=scale)
