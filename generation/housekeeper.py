"""What a serving process does beside answering: the clean-up by rule. With or without an engine beside it.

Any number of processes may: rows say whose turn it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import Final

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

    async def run(self) -> None:
        """Work until stopped. What fails is logged and tried again."""
        await self._rest(FIRST_LOOK)
        while not self._stopping.is_set():
            try:
                await in_database(run_due)(self._stop_now.is_set)
            except Exception:
                logger.exception("the clean-up met an error and goes on")
            await self._rest(LOOK_EVERY)

    async def stop(self, running: asyncio.Task[None]) -> None:
        """Begin nothing new, and return when what is under way has ended, within a bound."""
        self._stopping.set()
        self._stop_now.set()
        await asyncio.wait({running}, timeout=STOP_BOUND)
        running.cancel()

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
