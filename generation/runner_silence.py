"""Whether a runner that says nothing still works: judged by what its process does, never by how long its work takes.

A slow machine is left alone, a process that stands still is not. Knows processes only.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Final

import psutil

#: A silent process is looked at this often, in seconds.
LOOK_EVERY: Final = 2.0
#: One that computes less than this share of the time does nothing.
LEAST_SHARE: Final = 0.01
#: One that computes in silence gets so many times as long as one that does nothing: it may turn in a circle.
BUSY_FACTOR: Final = 20


@dataclass
class Silence:
    """Counts, from the last word of a process on. `bound` is how long it may do nothing, in seconds.

    Looks are counted and not the clock: while this process itself was stopped, nobody could say anything to it.
    """

    pid: int | None
    bound: float
    still_seconds: float = 0.0
    silent_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Begin to count."""
        self._computed = self._computed_seconds()

    @property
    def step(self) -> float:
        """Seconds to the next look."""
        return min(LOOK_EVERY, self.bound / 4)

    def look(self) -> str:
        """One more step of silence. Answers "" or, once it is over its bound, what the process did in words."""
        computed = self._computed_seconds()
        is_busy = computed - self._computed >= LEAST_SHARE * self.step or self._waits_for_disk()
        self._computed = computed
        self.silent_seconds += self.step
        self.still_seconds = 0.0 if is_busy else self.still_seconds + self.step
        if self.still_seconds >= self.bound:
            return f"said nothing and did nothing for {self.still_seconds:.0f} s"
        if self.silent_seconds >= BUSY_FACTOR * self.bound:
            return f"said nothing for {self.silent_seconds:.0f} s, though it was busy"
        return ""

    def _computed_seconds(self) -> float:
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(self.pid).cpu_times()
            return float(times.user + times.system)
        return 0.0

    def _waits_for_disk(self) -> bool:
        with contextlib.suppress(psutil.Error):
            return bool(psutil.Process(self.pid).status() == psutil.STATUS_DISK_SLEEP)
        return False
