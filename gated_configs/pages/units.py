"""Figures as the memory pages say them: bytes in both units, counts with their thousands, lengths, formats."""

from __future__ import annotations

from typing import Final

from gated_configs.memory import Architecture, Card, MemoryEstimate, Request
from gated_configs.services.questions import LengthUnit, length_unit
from gated_configs.wording import THIN_SPACE, plain_number, spoken_seconds

_DECIMAL: Final = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_BINARY: Final = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def in_decimal(size_bytes: int) -> str:
    """Powers of a thousand, three figures and no fewer: "16.1 GB", "1,024 GB", "603 MB"."""
    return _scaled(size_bytes, _DECIMAL)


def in_binary(size_bytes: int) -> str:
    """Powers of 1024: "15 GiB", "576 MiB"."""
    return _scaled(size_bytes, _BINARY)


def _scaled(size_bytes: int, units: tuple[tuple[int, str], ...]) -> str:
    for factor, unit in units:
        if size_bytes >= factor:
            value = size_bytes / factor
            places = 2 if value < 10 else 1 if value < 100 else 0
            return f"{value:,.{places}f}{THIN_SPACE}{unit}"
    return f"{size_bytes}{THIN_SPACE}bytes" if size_bytes else "none"


def in_gigabytes(size_bytes: int) -> str:
    """The number of GB alone, for columns that say their unit above."""
    value = size_bytes / 10**9
    return f"{value:,.{2 if value < 1 else 1 if value < 1000 else 0}f}"


def in_words(count: int) -> str:
    """A count of parameters, roughly: "8.03 billion", "587 million"."""
    for factor, word in ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if count >= factor:
            value = count / factor
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}{THIN_SPACE}{word}"
    return str(count)


def short_name(model_id: str) -> str:
    """A model as people call it: "meta-llama/Llama-3.1-8B" -> "Llama 3.1 8B"."""
    name = model_id.rpartition("/")[2].replace("-", " ").replace("_", " ").strip()
    return name.replace("musicgen", "MusicGen", 1) or model_id


def box_size(memory_bytes: int) -> str:
    """A card's memory as its box says it, which means GiB: "24 GB"."""
    gib = memory_bytes / 2**30
    return f"{gib:.0f}{THIN_SPACE}GB" if abs(gib - round(gib)) < 0.01 else in_decimal(memory_bytes)


def card_title(card: Card) -> str:
    """A card with an article: "a GeForce RTX 4090 24 GB", "this machine"."""
    if card.slug == "this":
        return f"this machine ({in_decimal(card.memory_bytes)})"
    if card.slug == "memory":
        return in_decimal(card.memory_bytes)
    letter = card.name[:1]
    # Said letter by letter: an RTX, an A100, an L4, an H100; but a GeForce, a Tesla, a B200.
    article = "an" if letter in "AEHILMORX" and not card.name.startswith("MI") else "a"
    return f"{article} {card.name}"


def format_words(request: Request, architecture: Architecture) -> str:
    """The weights' format in a word or two."""
    if request.weights != "stored":
        return request.weights
    method = architecture.quantisation.method if architecture.quantisation is not None else ""
    return f"{method}, as published" if method else "its published format"


def tokens_words(tokens: float) -> str:
    """ "8,192 tokens"."""
    return f"{tokens:,.0f} token{'' if tokens == 1 else 's'}"


def length_words(value: float, unit: LengthUnit) -> str:
    """A context or a take."""
    return tokens_words(value) if unit == "tokens" else spoken_seconds(value)


def short_length(value: float | None, unit: LengthUnit | None) -> str:
    """The head of a column: "512", "8k", "1M", "30 s"."""
    if value is None or unit is None:
        return "one input"
    if unit == "seconds":
        return spoken_seconds(value)
    whole = int(value)
    for factor, letter in ((2**20, "M"), (2**10, "k")):
        if whole % factor == 0:
            return f"{whole // factor}{letter}"
    return f"{whole:,}"


def extent_words(request: Request, architecture: Architecture, result: MemoryEstimate) -> str:
    """How much is asked for: "8,192 tokens", "4 sequences of 2,048 tokens", "2 variations of 30 s"."""
    unit = length_unit(architecture)
    batch = request.batch
    if unit == "seconds":
        music = architecture.music
        assert music is not None
        take = spoken_seconds(request.duration_seconds or music.trained_seconds)
        return f"{take} of music" if batch == 1 else f"{batch:,} variations of {take}"
    if unit == "tokens":
        tokens = tokens_words(result.tokens)
        return tokens if batch == 1 else f"{batch:,} sequences of {tokens}"
    return "one input" if batch == 1 else f"{batch:,} inputs at once"


def percent(part: float, whole: float) -> float:
    """A share as an attribute of a drawing, 0 to 100."""
    return round(min(100.0, max(0.0, 100 * part / whole)), 3) if whole > 0 else 0.0


def share_words(part: int, whole: int) -> str:
    """ "92%", "<1%"."""
    if not part:
        return "0%"
    share = 100 * part / whole
    return "<1%" if share < 1 else f"{plain_number(round(share))}%"
