"""Channels consumers: the engine's ear, and the socket of the pages.

Handlers return at once; long work happens in the dispatcher's own task. Every push is read from rows.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qs

from channels.consumer import AsyncConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings

from generation.audience import TOO_MANY_PAGES, Hall
from generation.database import in_database
from generation.dispatcher import Dispatcher
from generation.page_content import Changes, Shared, render
from registry.events import HOSTS_GROUP


class EngineConsumer(AsyncConsumer):
    """Listens on the channel `generation` and holds this process's dispatcher. One a process."""

    dispatcher: Dispatcher | None = None
    _task: asyncio.Task[None] | None = None

    async def engine_start(self, message: dict[str, Any]) -> None:
        """Begin to work. Sent by the process that wants an engine; a second one changes nothing."""
        cls = type(self)
        if cls._task is None or cls._task.done():
            cls.dispatcher = Dispatcher()
            cls._task = asyncio.create_task(cls.dispatcher.run(), name="dispatcher")
        # After the engine, which works without a channel layer, only later: and again now and then, since a layer
        # forgets its groups.
        await self.channel_layer.group_add(HOSTS_GROUP, self.channel_name)

    async def switch_requested(self, message: dict[str, Any]) -> None:
        """Somebody wants another model, or the end of a switch, or memory back."""
        if self.dispatcher is not None:
            await self.dispatcher.look_at_switch()

    async def job_submitted(self, message: dict[str, Any]) -> None:
        """There is work in the queue."""
        if self.dispatcher is not None:
            self.dispatcher.wake()

    async def job_cancel_requested(self, message: dict[str, Any]) -> None:
        """Somebody wants a job to end; it may be in another host's hands."""
        if self.dispatcher is not None:
            await self.dispatcher.cancel(int(message["job_id"]))

    @classmethod
    async def drain_engine(cls, seconds: float) -> None:
        """Take nothing new and give what is in hand so long to end. Returns when the engine has ended."""
        if cls.dispatcher is not None and cls._task is not None:
            await cls.dispatcher.drain(seconds)
            await asyncio.gather(cls._task, return_exceptions=True)

    @classmethod
    async def stop_engine(cls) -> None:
        """Hand back the running job and end the runner. Returns when both are done."""
        if cls.dispatcher is not None and cls._task is not None:
            await cls.dispatcher.stop()
            await asyncio.gather(cls._task, return_exceptions=True)
        cls.dispatcher = None
        cls._task = None


class StudioConsumer(AsyncWebsocketConsumer):
    """The socket of an open page: a full snapshot first, then each change as a partial swapped out of band.

    What the page shows comes as `?view=` (`generation.page_content`). Hints reach it through the hall.
    """

    hall: Hall | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve the socket, and be told no more once that has ended, however it ends."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self.hall is not None:
                await self.hall.leave(self)

    async def connect(self) -> None:
        """Have hints heard, then send the state of everything the page shows. One page too many is closed again."""
        self.user = self.scope["user"]
        hall = Hall.here()
        if hall.pages_of(self.user.pk) >= settings.STUDIO.max_sockets_per_person:
            await self.accept()  # the page of a socket that was never open is not told why
            await self.close(code=TOO_MANY_PAGES)
            return
        query = parse_qs(self.scope.get("query_string", b"").decode(errors="replace"))
        self.view = query.get("view", ["shell"])[0]
        self.hall = hall
        # Before the snapshot: a change between the two is told twice rather than lost.
        await self.hall.enter(self)
        await self.accept()
        everything = (Changes.everything(), self.view, self.user, Shared())
        if html := await in_database(render)(*everything):
            await self.send(text_data=html)
        self.hall.seat(self)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Pages say nothing over the socket: what they want, they post."""
