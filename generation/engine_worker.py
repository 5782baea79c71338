"""Runs the EngineConsumer in this process, beside a web server or alone."""

from __future__ import annotations

import asyncio
import contextlib
import signal

from channels.worker import Worker

from generation.consumers import EngineConsumer
from registry.events import ENGINE_CHANNEL


class EngineWorker(Worker):
    """A Channels worker whose engine starts by itself and hands its job back before the process ends."""

    async def handle(self) -> None:
        """Listen until cancelled, or until this process is asked to end."""
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        listening = asyncio.create_task(self.listen())
        await asyncio.wait(
            {listening, asyncio.create_task(stopped.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
        await self.stop(listening)

    async def listen(self) -> None:
        """Start the engine and pass on what arrives on the channels."""
        if ENGINE_CHANNEL in self.channels:
            scope = {"type": "channel", "channel": ENGINE_CHANNEL}
            queue = self.get_or_create_application_instance(ENGINE_CHANNEL, scope)
            # Straight to our own consumer: on a shared layer the channel could hand it to another host.
            await queue.put({"type": "engine.start"})
        await super().handle()

    async def stop(self, listening: asyncio.Task[None]) -> None:
        """End the engine, then the listening."""
        await EngineConsumer.stop_engine()
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening
