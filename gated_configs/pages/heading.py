"""What stands over an answer about one model, whatever follows below."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    """The model, what kind it is in a few `words`, and whether it fits: as a `verdict`, its `sign` and a sentence."""

    model_id: str
    model_page: str
    words: tuple[str, ...]
    verdict: str
    sign: str
    headline: str
