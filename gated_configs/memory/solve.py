"""The questions asked backwards: how long, how many, on which card. Over the estimate, which grows in each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gated_configs.memory.architecture import Architecture
from gated_configs.memory.cards import CARDS, Card
from gated_configs.memory.errors import DoesNotFit
from gated_configs.memory.estimate import MemoryEstimate, estimate
from gated_configs.memory.request import Request

#: Share of a card that is planned with; the rest is for fragmentation and what else runs on it.
DEFAULT_HEADROOM: Final = 0.1
_MOST_TOKENS: Final = 1 << 34
_MOST_SEQUENCES: Final = 1 << 24
_FRAMES_PER_DAY: Final = 86_400


@dataclass(frozen=True)
class CardFit:
    """How a request meets a card: `used_bytes` of `usable_bytes`, which leave the headroom free."""

    card: Card
    used_bytes: int
    usable_bytes: int

    @property
    def fits(self) -> bool:
        """Whether it fits with the headroom left free."""
        return self.used_bytes <= self.usable_bytes


def longest_context(architecture: Architecture, request: Request, memory_bytes: int) -> int:
    """Most tokens a sequence may have in that memory, at the request's batch.

    Not more than the config's positions, where it limits them. Raises DoesNotFit when not even one does.
    """
    limit = architecture.shapes.max_context or _MOST_TOKENS
    return _largest(
        lambda tokens: estimate(architecture, request.changed(context=tokens)),
        memory_bytes,
        limit,
        "one token",
    )


def largest_batch(architecture: Architecture, request: Request, memory_bytes: int) -> int:
    """Most sequences (for music: variations) in that memory, at the request's length. Raises DoesNotFit."""
    return _largest(
        lambda rows: estimate(architecture, request.changed(batch=rows)),
        memory_bytes,
        _MOST_SEQUENCES,
        "one sequence",
    )


def longest_take(architecture: Architecture, request: Request, memory_bytes: int) -> float:
    """Most seconds of music in that memory, at the request's number of variations; whole frames of the codec.

    Not limited to what the model was trained on: longer takes are made in windows. Raises DoesNotFit, and
    ValueError for a model that makes no music.
    """
    music = architecture.music
    if music is None:
        raise ValueError("This model makes no music; ask for the longest context instead.")
    frames = _largest(
        lambda count: estimate(architecture, request.changed(duration_seconds=count / music.frame_rate)),
        memory_bytes,
        int(_FRAMES_PER_DAY * music.frame_rate),
        "one frame",
    )
    return frames / music.frame_rate


def fit_on(
    architecture: Architecture, request: Request, card: Card, *, headroom: float = DEFAULT_HEADROOM
) -> CardFit:
    """How a request meets one card."""
    if not 0 <= headroom < 1:
        raise ValueError("headroom is a share of the card between 0 and 1.")
    return CardFit(card, estimate(architecture, request).total_bytes, int(card.memory_bytes * (1 - headroom)))


def smallest_card(
    architecture: Architecture,
    request: Request,
    *,
    cards: Sequence[Card] = CARDS,
    headroom: float = DEFAULT_HEADROOM,
) -> CardFit:
    """The smallest card of a list on which a request fits with headroom. Raises DoesNotFit."""
    for card in sorted(cards, key=lambda card: card.memory_bytes):
        fit = fit_on(architecture, request, card, headroom=headroom)
        if fit.fits:
            return fit
    needed = estimate(architecture, request).total_bytes
    raise DoesNotFit(f"No single card of the list has the {needed / 1e9:.1f} GB that this needs.")


def _largest(make: Callable[[int], MemoryEstimate], memory_bytes: int, limit: int, least: str) -> int:
    """The largest number of 1 to `limit` whose estimate stays within the memory: estimates never shrink."""
    if make(1).total_bytes > memory_bytes:
        raise DoesNotFit(
            f"Not even {least} fits: {make(1).total_bytes / 1e9:.2f} GB are needed and {memory_bytes / 1e9:.2f} GB given."
        )
    low, high = 1, 2
    while high <= limit and make(high).total_bytes <= memory_bytes:
        low, high = high, high * 2
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if make(middle).total_bytes <= memory_bytes:
            low = middle
        else:
            high = middle
    return low
