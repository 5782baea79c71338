"""Runs the EngineConsumer in this process, beside a web server or alone."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Any, Final

from channels.worker import Worker
from django.conf import settings

from generation.consumers import EngineConsumer
from registry.events import ENGINE_CHANNEL

logger = logging.getLogger(__name__)

#: A channel layer that is away is asked again after so many seconds.
LISTEN_AGAIN_AFTER: Final = 1.0
#: The engine joins its group again this often, in seconds: a layer forgets who is in it after a day.
JOIN_EVERY: Final = 3600.0
#: What was cancelled gets this long to end, in seconds.
CANCEL_BOUND: Final = 1.0


class StopRequests:
    """Signals that ask this process to end. SIGTERM lets work end within a bound; a second signal, or Ctrl+C, does not."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurry = asyncio.Event()

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hear them from now on. In the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.hear, number)

    def hear(self, number: int) -> None:
        """One signal."""
        if self.asked.is_set() or number == signal.SIGINT:
            self.hurry.set()
        self.asked.set()

    async def drain(self) -> None:
        """End this process's engine: what is in hand may end within the bound, unless somebody is in a hurry."""
        draining = asyncio.create_task(EngineConsumer.drain_engine(settings.STUDIO.drain_seconds))
        hurrying = asyncio.create_task(self.hurry.wait())
        await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
        hurrying.cancel()
        await EngineConsumer.stop_engine()
        await asyncio.gather(draining, return_exceptions=True)


class EngineWorker(Worker):
    """A Channels worker whose engine starts by itself and hands its job back before the process ends."""

    async def handle(self) -> None:
        """Listen until cancelled, or until this process is asked to end."""
        requests = StopRequests()
        requests.listen(asyncio.get_running_loop())
        listening = asyncio.create_task(self.listen())
        try:
            await requests.asked.wait()
            await requests.drain()
        finally:
            await self.stop(listening)

    async def listen(self) -> None:
        """Start the engine and pass on what arrives on the channels, whenever the channel layer is there."""
        while True:
            try:
                await self._listen_once()
            except Exception as problem:  # noqa: BLE001 - whatever a layer raises, the engine works without hints
                logger.warning("The channel layer is away; work is found without its hints: %r", problem)
            await asyncio.sleep(LISTEN_AGAIN_AFTER)

    async def _listen_once(self) -> None:
        """Until the layer fails."""
        tasks: set[asyncio.Future[Any]] = {
            asyncio.create_task(self.listener(channel)) for channel in self.channels
        }
        try:
            while True:
                if ENGINE_CHANNEL in self.channels:
                    scope = {"type": "channel", "channel": ENGINE_CHANNEL}
                    queue = self.get_or_create_application_instance(ENGINE_CHANNEL, scope)
                    tasks.add(self.application_instances[ENGINE_CHANNEL]["future"])
                    # Straight to our own consumer: on a shared layer the channel could hand it to another host.
                    await queue.put({"type": "engine.start"})
                ended, _ = await asyncio.wait(tasks, timeout=JOIN_EVERY, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()
        finally:
            self.application_instances.pop(ENGINE_CHANNEL, None)
            for task in tasks:
                task.cancel()
            # Not for longer: a layer may swallow it.
            ended, _ = await asyncio.wait(tasks, timeout=CANCEL_BOUND)
            for task in ended:
                # The first one to fail has said it for all.
                _ = task.cancelled() or task.exception()

    async def application_checker(self) -> None:
        """What ends is seen where it is listened to."""
        await asyncio.Event().wait()

    async def stop(self, listening: asyncio.Task[None]) -> None:
        """End the engine, then the listening."""
        await EngineConsumer.stop_engine()
        listening.cancel()
        await asyncio.wait({listening}, timeout=2 * CANCEL_BOUND)
