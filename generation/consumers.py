"""Channels consumers: the engine's ear, and the socket of the pages.

Handlers return at once; long work happens in the dispatcher's own task. Every push is read from rows.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qs

from channels.consumer import AsyncConsumer
from channels.generic.websocket import AsyncWebsocketConsumer

from generation.audience import Audience
from generation.database import in_database
from generation.dispatcher import Dispatcher
from generation.events import owner_group
from generation.page_content import Changes, Shared, render
from registry.events import ENGINE_GROUP, HOSTS_GROUP


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

    What the page shows comes as `?view=` (`generation.page_content`).
    """

    audience: Audience | None = None

    async def connect(self) -> None:
        """Join the groups, then send the state of everything the page shows."""
        self.user = self.scope["user"]
        query = parse_qs(self.scope.get("query_string", b"").decode(errors="replace"))
        view = query.get("view", ["shell"])[0]
        self.groups_joined = [ENGINE_GROUP, owner_group(self.user.pk)]
        # Groups before the snapshot: a change between the two is sent twice rather than lost. Hints wait for the end of
        # this method, and the audience is joined last, so that nothing newer comes before the snapshot.
        for group in self.groups_joined:
            await self.channel_layer.group_add(group, self.channel_name)
        await self.accept()
        if html := await in_database(render)(Changes.everything(), view, self.user, Shared()):
            await self.send(text_data=html)
        self.audience = Audience.join(self, view)

    async def disconnect(self, code: int) -> None:
        """Leave the groups."""
        if self.audience is not None:
            self.audience.leave(self)
        for group in getattr(self, "groups_joined", []):
            await self.channel_layer.group_discard(group, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Pages say nothing over the socket: what they want, they post."""

    # Hints. Each page has its own copy; pages that show the same are told together.

    async def board_changed(self, message: dict[str, Any]) -> None:
        """Cards came, went or changed status."""
        changes = self._note()
        changes.board = True
        if sentence := message.get("announcement", ""):
            changes.announcements.append(sentence)

    async def job_progressed(self, message: dict[str, Any]) -> None:
        """One running job is further on."""
        self._note().jobs.add(message["job_id"])

    async def takes_changed(self, message: dict[str, Any]) -> None:
        """A take was saved or changed."""
        self._note().takes = True

    async def engine_changed(self, message: dict[str, Any]) -> None:
        """The engine's state changed."""
        self._note().engine = True

    async def adapters_changed(self, message: dict[str, Any]) -> None:
        """An adapter came, went, or was edited, or a proof came in."""
        self._note().adapters = True

    async def switch_changed(self, message: dict[str, Any]) -> None:
        """A switch went on; when it ended, the active model may be another one."""
        changes = self._note()
        changes.switch = True
        changes.active_model |= bool(message.get("finished"))

    async def access_changed(self, message: dict[str, Any]) -> None:
        """Whose page this is may have changed: it comes back by itself, and is looked at anew."""
        await self.close(code=1012)

    def _note(self) -> Changes:
        assert self.audience is not None, "a hint is handled after connect"
        return self.audience.note()
