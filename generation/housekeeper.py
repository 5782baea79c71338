"""What a serving process does beside answering: the clean-up by rule, and what webhooks are to hear.

With or without an engine beside it, in any number of processes: rows say whose turn it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Final

from generation.courier import POLL, Courier
from generation.database import in_database
from generation.retention.run import run_due

logger = logging.getLogger(__name__)

#: Rules are asked whether they are due this often, in seconds; and first so long after the start.
LOOK_EVERY: Final = 20.0
FIRST_LOOK: Final = 5.0
#: What is under way when the server stops gets so long to end, in seconds.
STOP_BOUND: Final = 5.0


class Housekeeper:
    """`run()` until `stop()`, on one event loop."""

    def __init__(self) -> None:
        self._stopping = asyncio.Event()
        # The same for what runs in threads.
        self._stop_now = threading.Event()
        self._courier = Courier()

    async def run(self) -> None:
        """Work until stopped. What fails is logged and tried again."""
        await asyncio.gather(
            self._again_and_again(self._clean_up, first=FIRST_LOOK, every=LOOK_EVERY),
            self._again_and_again(self._courier.send_due, first=POLL, every=POLL, wake=self._courier.again),
        )

    async def _again_and_again(
        self,
        work: Callable[[], Awaitable[None]],
        *,
        first: float,
        every: float,
        wake: asyncio.Event | None = None,
    ) -> None:
        await _first_of(first, self._stopping)
        while not self._stopping.is_set():
            try:
                await work()
            except Exception:
                # A database that is away for a moment: no traceback every two seconds.
                logger.exception("the housekeeper met an error and goes on")
                await _first_of(LOOK_EVERY, self._stopping)
            await _first_of(every, self._stopping, *([wake] if wake is not None else []))

    async def _clean_up(self) -> None:
        await in_database(run_due)(self._stop_now.is_set)

    async def stop(self, running: asyncio.Task[None]) -> None:
        """Begin nothing new, and return when what is under way has ended, within a bound."""
        self._stopping.set()
        self._stop_now.set()
        await asyncio.wait(
            {running, asyncio.create_task(self._courier.finish(STOP_BOUND))}, timeout=STOP_BOUND
        )
        running.cancel()


async def _first_of(seconds: float, *events: asyncio.Event) -> None:
    """Until one of them is set, or the time is over."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*waits, return_exceptions=True)
