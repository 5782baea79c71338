"""Which cards a request fits: one line for each size, because the memory decides and not the name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gated_configs.memory import CardFit
from gated_configs.pages.asked import Asked
from gated_configs.pages.units import box_size, in_decimal, percent
from gated_configs.services.calculation import Calculation, Verdict, verdict_of
from gated_configs.services.questions import THIS_MACHINE

#: Of the sizes of cards, those shown at once about the first that fits; the others are folded.
CARDS_BELOW: Final = 3
CARDS_ABOVE: Final = 4

SIGNS: Final = {"comfortable": "i-check", "barely": "i-warn", "not": "i-close"}
WORDS: Final = {"comfortable": "fits", "barely": "barely fits", "not": "does not fit"}


@dataclass(frozen=True)
class CardLine:
    """All cards of one size, and how the request meets them."""

    size: str
    names: str
    verdict: Verdict
    sign: str
    word: str
    width: float
    limit_x: float | None
    spare: str
    address: str
    is_chosen: bool
    is_machine: bool


def card_lines(calculation: Calculation, asked: Asked) -> list[CardLine]:
    """One line for each size of card: what decides is the memory, not the name."""
    groups: dict[tuple[str, int], list[CardFit]] = {}
    for fit in calculation.cards:
        is_machine = fit.card.slug == THIS_MACHINE
        groups.setdefault((THIS_MACHINE if is_machine else "", fit.card.memory_bytes), []).append(fit)
    lines = []
    chosen = calculation.card.slug if calculation.card is not None else ""
    for (kind, memory_bytes), fits in groups.items():
        fit = fits[0]
        verdict = verdict_of(fit)
        used, size = fit.used_bytes, memory_bytes
        slugs = [each.card.slug for each in fits]
        slug = chosen if chosen in slugs else slugs[0]
        if kind:
            names = fit.card.name
        else:
            names = " · ".join(_without_size(each.card.name) for each in fits)
        lines.append(
            CardLine(
                size="This machine" if kind else box_size(memory_bytes),
                names=names,
                verdict=verdict,
                sign=SIGNS[verdict],
                word=WORDS[verdict],
                width=percent(used, size),
                limit_x=percent(size, used) if used > size else None,
                spare=f"{in_decimal(size - used)} free"
                if used <= size
                else f"{in_decimal(used - size)} too much",
                address=asked.changed(options={"gpu": slug, "memory_gb": ""}).address,
                is_chosen=chosen in slugs,
                is_machine=bool(kind),
            )
        )
    return lines


def near_and_far(lines: list[CardLine]) -> tuple[tuple[CardLine, ...], tuple[CardLine, ...]]:
    """The sizes about the first that fits, this machine and the chosen one; and all the others."""
    sizes = [line for line in lines if not line.is_machine]
    first = next((place for place, line in enumerate(sizes) if line.verdict == "comfortable"), len(sizes))
    shown = sizes[max(0, first - CARDS_BELOW) : first + CARDS_ABOVE]
    near = [line for line in lines if line.is_machine or line.is_chosen or line in shown]
    return tuple(near), tuple(line for line in lines if line not in near)


def bare_name(name: str) -> str:
    """A card's name without its maker's line: "RTX 4090 24 GB"."""
    return name.removeprefix("GeForce ")


def _without_size(name: str) -> str:
    """The same without its size, which stands beside it."""
    words = bare_name(name).split(" ")
    return " ".join(words[:-2]) if words[-1] == "GB" else name
