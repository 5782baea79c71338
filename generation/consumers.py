"""Channels consumers: the engine's ear, and the socket of the pages.

Handlers return at once; long work happens in the dispatcher's own task. Every push is read from rows.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from urllib.parse import parse_qs

from channels.consumer import AsyncConsumer
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer

from generation import cards
from generation.adapter_choices import adapter_choices, choices_context
from generation.adapter_pages import push
from generation.dispatcher import Dispatcher
from generation.engine_state import engine_state
from generation.events import owner_group
from generation.model_limits import limits_context
from generation.models import Job
from generation.partials import announcement as announce
from generation.partials import out_of_band
from generation.settings_page import settings_context
from generation.switch_card import SwitchCard, switch_card
from registry.events import ENGINE_GROUP, HOSTS_GROUP
from registry.services import last_switch

logger = logging.getLogger(__name__)


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

    What the page shows comes as `?view=`: studio, library, adapters, adapter-ID, adapter-ID-TRIAL, settings or shell.
    """

    async def connect(self) -> None:
        """Join the groups, then send the state of everything the page shows."""
        self.user = self.scope["user"]
        query = parse_qs(self.scope.get("query_string", b"").decode(errors="replace"))
        self.view = query.get("view", ["shell"])[0]
        self.groups_joined = [ENGINE_GROUP, owner_group(self.user.pk)]
        # Groups before the snapshot: a change between the two is sent twice rather than lost.
        for group in self.groups_joined:
            await self.channel_layer.group_add(group, self.channel_name)
        await self.accept()
        await self._push(self._snapshot)

    async def disconnect(self, code: int) -> None:
        """Leave the groups."""
        for group in getattr(self, "groups_joined", []):
            await self.channel_layer.group_discard(group, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Pages say nothing over the socket: what they want, they post."""

    # Hints.

    async def board_changed(self, message: dict[str, Any]) -> None:
        """Cards came, went or changed status."""
        await self._push(self._board, message.get("announcement", ""))

    async def job_progressed(self, message: dict[str, Any]) -> None:
        """One running job is further on."""
        await self._push(self._job, message["job_id"])

    async def takes_changed(self, message: dict[str, Any]) -> None:
        """A take was saved or changed."""
        await self._push(self._takes)

    async def engine_changed(self, message: dict[str, Any]) -> None:
        """The engine's state changed."""
        await self._push(self._chip)

    async def adapters_changed(self, message: dict[str, Any]) -> None:
        """An adapter came, went, or was edited, or a proof came in."""
        await self._push(self._adapters)

    async def switch_changed(self, message: dict[str, Any]) -> None:
        """A switch went on; when it ended, the active model may be another one."""
        await self._push(self._switch, bool(message.get("finished")))

    async def access_changed(self, message: dict[str, Any]) -> None:
        """Whose page this is may have changed: it comes back by itself, and is looked at anew."""
        await self.close(code=1012)

    async def _push(self, make: Any, *arguments: Any) -> None:
        html = await database_sync_to_async(make, thread_sensitive=False)(*arguments)
        if html:
            await self.send(text_data=html)

    # Partials, each read from the rows as they are now.

    def _snapshot(self) -> str:
        return self._switch(True) + self._board("") + self._takes() + self._trial()

    def _switch(self, finished: bool) -> str:
        html = self._chip()
        if self.view == "settings":
            html += out_of_band("registry/_switch_status.html", {"switch_card": self._switch_card()})
            if finished:
                html += out_of_band("registry/_models.html", settings_context(self.user))
        elif self.view == "studio" or self.view.startswith("adapter-"):
            html += out_of_band("registry/_switch_status.html", {"switch_card": self._switch_card()})
            if finished and self.view == "studio":
                html += out_of_band("generation/_model_limits.html", limits_context())
        if finished:
            html += self._adapters()
        return html

    def _switch_card(self) -> SwitchCard | None:
        switch = last_switch()
        return switch_card(switch) if switch is not None else None

    def _adapters(self) -> str:
        """What the page says of adapters, which hangs on the active model."""
        if self.view == "studio":
            context = choices_context(self.user, adapter_choices())
            return out_of_band("generation/_adapter_choices.html", context)
        return push.verdicts(self.view, self.user)

    def _trial(self) -> str:
        """How far the comparison on the page is."""
        return push.comparison(self.view, self.user)

    def _chip(self) -> str:
        return out_of_band("generation/_engine_chip.html", {"engine": engine_state()})

    def _board(self, announcement: str) -> str:
        html = ""
        if self.view == "studio":
            html = out_of_band("generation/_queue.html", {"cards": cards.board(self.user)})
        html += self._trial()
        if announcement:
            html += announce(announcement)
        return html

    def _job(self, job_id: int) -> str:
        if self.view != "studio":
            return self._trial()
        job = Job.objects.for_user(self.user).on_the_board().select_related("model").filter(pk=job_id).first()
        if job is None:
            return ""
        return out_of_band("generation/_job_card.html", {"card": cards.card_of(job)})

    def _takes(self) -> str:
        if self.view != "studio":
            return self._trial()
        return out_of_band(
            "generation/_takes.html", {"takes": cards.recent_takes(self.user), "examples": cards.EXAMPLES}
        )
