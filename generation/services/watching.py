"""Rows that another host must renew, as this process sees them: by its own steady clock, whatever clocks of walls say.

A time in a row is only compared with itself: it changed since we looked, or it did not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime


@dataclass
class StillnessWatch:
    """How long each row has stood still while we were looking. Owned by one thread at a time.

    One look adds `step_bound` seconds at most: while we slept or the database was away, nobody could renew anything.
    """

    step_bound: float
    clock: Callable[[], float] = time.monotonic
    _seen: dict[object, tuple[datetime | None, float]] = field(
        default_factory=dict
    )  # value, seconds of stillness
    _asked: set[object] = field(default_factory=set)
    _looked_at: float | None = None
    _step: float = 0.0

    def look(self) -> None:
        """Begin a round of questions."""
        now = self.clock()
        self._step = 0.0 if self._looked_at is None else min(now - self._looked_at, self.step_bound)
        self._looked_at = now
        self._asked.clear()

    def still_seconds(self, key: object, renewed: datetime | None) -> float:
        """For how long `key` has had this value, as far as we saw it. Asked once for each key in a round."""
        self._asked.add(key)
        before = self._seen.get(key)
        still = before is not None and before[0] == renewed
        seconds = before[1] + self._step if before is not None and still else 0.0
        self._seen[key] = (renewed, seconds)
        return seconds

    def end_round(self) -> None:
        """What nobody asked for in this round is over."""
        self._seen = {key: seen for key, seen in self._seen.items() if key in self._asked}
