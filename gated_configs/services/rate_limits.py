"""How often a person and an address may do something: counted in memory, or in Redis where there is one.

An allowance is spent before the work, so that refused attempts count too. Knows nothing of what is limited.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from django.conf import settings

from gated_configs.wording import spoken_seconds

if TYPE_CHECKING:
    from limits.strategies import MovingWindowRateLimiter

logger = logging.getLogger(__name__)

_PREFIX: Final = "musicgen"
_REDIS_SECONDS: Final = 2.0


class TooManyRequests(Exception):
    """Somebody does something too often. `str()` says so, and when it is possible again."""

    code = "TOO_MANY_REQUESTS"

    def __init__(self, what: str, retry_after_seconds: int) -> None:
        super().__init__(
            f"That were too many {what} in a short time. Try again in {spoken_seconds(retry_after_seconds)}."
        )
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """At most `per_person` and `per_address` in any `window_seconds`. `what` is the plural, for the sentence."""

    name: str
    what: str
    per_person: int
    per_address: int
    window_seconds: int
    refusal: type[TooManyRequests] = TooManyRequests


def spend(allowance: Allowance, *, person: str = "", address: str = "") -> None:
    """Count one attempt of that person from that address; an empty one is not counted.

    Raises the allowance's refusal, a TooManyRequests; an attempt that is refused is not counted again.
    """
    keys = [
        (kind, value, amount)
        for kind, value, amount in (
            ("person", person, allowance.per_person),
            ("address", address, allowance.per_address),
        )
        if value
    ]
    from limits.errors import ConfigurationError, StorageError

    if _is_shared():
        try:
            _spend(_shared_limiter(settings.STUDIO.redis_url), allowance, keys)
            return
        except (StorageError, ConfigurationError) as error:
            # Redis carries hints and counts; without it each process counts for itself.
            logger.warning("Rates are counted in this process alone, since Redis failed: %s", error)
    _spend(_own_limiter(), allowance, keys)


def _spend(limiter: MovingWindowRateLimiter, allowance: Allowance, keys: list[tuple[str, str, int]]) -> None:
    from limits import RateLimitItemPerSecond

    items = [
        # Hashed: an address or name of any length and any characters becomes a short key.
        (
            RateLimitItemPerSecond(amount, allowance.window_seconds, namespace=_PREFIX),
            (allowance.name, kind, hashlib.sha256(value.encode()).hexdigest()[:32]),
        )
        for kind, value, amount in keys
    ]
    for item, key in items:
        if not limiter.test(item, *key):
            _refuse(limiter, allowance, item, key)
    for item, key in items:
        if not limiter.hit(item, *key):
            _refuse(limiter, allowance, item, key)


def _refuse(
    limiter: MovingWindowRateLimiter, allowance: Allowance, item: object, key: tuple[str, ...]
) -> None:
    from limits import RateLimitItem

    assert isinstance(item, RateLimitItem)
    free_at = limiter.get_window_stats(item, *key).reset_time
    # At the very second it is still taken.
    seconds = max(0, math.floor(free_at - time.time())) + 1
    raise allowance.refusal(allowance.what, seconds)


def _is_shared() -> bool:
    return settings.STUDIO.redis_url is not None


@functools.cache
def _own_limiter() -> MovingWindowRateLimiter:
    # Imported on first use: the library takes a tenth of a second, and most commands never need it.
    from limits.storage import MemoryStorage
    from limits.strategies import MovingWindowRateLimiter

    return MovingWindowRateLimiter(MemoryStorage())


@functools.cache
def _shared_limiter(url: str) -> MovingWindowRateLimiter:
    from limits.storage import storage_from_string
    from limits.strategies import MovingWindowRateLimiter

    if url.startswith("unix://"):  # as the channel layer writes it
        url = f"redis+{url}"
    storage = storage_from_string(
        url,
        wrap_exceptions=True,
        socket_connect_timeout=_REDIS_SECONDS,
        socket_timeout=_REDIS_SECONDS,
    )
    return MovingWindowRateLimiter(storage)


def forget_all() -> None:
    """Start counting anew in this process."""
    _own_limiter.cache_clear()
