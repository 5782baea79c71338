"""Cards that people have, with the memory their makers state. A list of facts; nothing is measured here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_GIB: Final = 1024**3


@dataclass(frozen=True)
class Card:
    """A graphics card by name; `memory_bytes` as its maker states it (GiB on the box)."""

    slug: str
    name: str
    memory_bytes: int


#: From the makers' data sheets, smallest first.
CARDS: Final = tuple(
    Card(slug, name, gib * _GIB)
    for slug, name, gib in (
        ("rtx-3050-6gb", "GeForce RTX 3050 6 GB", 6),
        ("rtx-4060", "GeForce RTX 4060 8 GB", 8),
        ("rtx-2080-ti", "GeForce RTX 2080 Ti 11 GB", 11),
        ("rtx-3060", "GeForce RTX 3060 12 GB", 12),
        ("rtx-4070", "GeForce RTX 4070 12 GB", 12),
        ("t4", "Tesla T4 16 GB", 16),
        ("rtx-4080", "GeForce RTX 4080 16 GB", 16),
        ("rtx-5080", "GeForce RTX 5080 16 GB", 16),
        ("rtx-4000-ada", "RTX 4000 Ada 20 GB", 20),
        ("rtx-3090", "GeForce RTX 3090 24 GB", 24),
        ("rtx-4090", "GeForce RTX 4090 24 GB", 24),
        ("a10", "A10 24 GB", 24),
        ("l4", "L4 24 GB", 24),
        ("rtx-5090", "GeForce RTX 5090 32 GB", 32),
        ("v100-32gb", "Tesla V100 32 GB", 32),
        ("a100-40gb", "A100 40 GB", 40),
        ("a6000", "RTX A6000 48 GB", 48),
        ("rtx-6000-ada", "RTX 6000 Ada 48 GB", 48),
        ("l40s", "L40S 48 GB", 48),
        ("a100-80gb", "A100 80 GB", 80),
        ("h100", "H100 80 GB", 80),
        ("rtx-pro-6000", "RTX PRO 6000 Blackwell 96 GB", 96),
        ("h200", "H200 141 GB", 141),
        ("b200", "B200 180 GB", 180),
        ("mi300x", "Instinct MI300X 192 GB", 192),
        ("b300", "B300 288 GB", 288),
    )
)


def find_card(text: str) -> Card:
    """The card of a slug or name, whatever the case and spaces. Raises ValueError naming some that are known."""
    wanted = _folded(text)
    for card in CARDS:
        if wanted in {_folded(card.slug), _folded(card.name)}:
            return card
    matches = [card for card in CARDS if wanted and wanted in _folded(card.name)]
    if matches:
        return matches[0]
    raise ValueError(f"{text!r} is no card in the list; known are {', '.join(card.slug for card in CARDS)}.")


def _folded(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())
