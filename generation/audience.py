"""The open pages of this process: hints are heard once for all of them, and pages that show the same are told together.

With hundreds of pages open, each hearing, reading and rendering every move of the queue for itself would take the
processor from the engine that moves it.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from itertools import islice
from typing import Any, Final, NoReturn, Protocol

from channels.layers import get_channel_layer

from generation.database import going_on, in_database
from generation.events import owner_group
from generation.open_sockets import open_sockets
from generation.page_content import Changes, Shared, render
from registry.events import ENGINE_GROUP

logger = logging.getLogger(__name__)

#: Rest between two tellings, in seconds for each socket that this process holds.
REST_PER_SOCKET: Final = 0.004
#: No page shows for much longer, in seconds, what is no longer true.
LONGEST_REST: Final = 2.0
#: So many audiences are read for at once, with one connection and one reading of what they share.
AT_ONCE: Final = 25
#: Codes of a socket that is closed for the page to open another: because it may be somebody else's, or we failed.
CLOSED_ANEW: Final = 1012
CLOSED_BY_FAILURE: Final = 1011
#: Code of one that is a person's one too many here. Its page does without, and tries again now and then
#: (static/js/connection.js).
TOO_MANY_PAGES: Final = 4429


class Listener(Protocol):
    """A socket's consumer."""

    user: Any
    view: str

    async def send(self, text_data: str | None = None) -> None:
        """Send a message."""

    async def close(self, code: int | None = None) -> None:
        """Close the socket; the page opens another."""


class Audience:
    """The pages of one person that show the same view, in this process."""

    def __init__(self, user: Any, view: str) -> None:
        self.user, self.view = user, view
        self.seated: set[Listener] = set()
        #: What changed since each began to be told everything.
        self.arriving: dict[Listener, Changes] = {}


class Hall:
    """All audiences of one event loop. Channels has one ear a socket; this is one for all of them."""

    _current: Hall | None = None

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._audiences: dict[tuple[int, str], Audience] = {}
        #: Those that something is to be told to, in the order in which they began to wait.
        self._waiting: dict[Audience, Changes] = {}
        self._joining = asyncio.Lock()  # of groups: one page's leaving must not undo another's coming
        self._channel = ""
        self._ear: asyncio.Task[None] | None = None
        self._mouth: asyncio.Task[None] | None = None

    @classmethod
    def here(cls) -> Hall:
        """The hall of this event loop."""
        if cls._current is None or cls._current._loop is not asyncio.get_running_loop():
            cls._current = cls()
        return cls._current

    # Pages come and go.

    def pages_of(self, owner_id: int) -> int:
        """How many pages of that person were let in and have not left."""
        return sum(len(audience.seated) + len(audience.arriving) for audience in self._of_owner(owner_id))

    async def enter(self, listener: Listener) -> None:
        """Hear for a page from now on. Then tell it everything, and call `seat`. Raises what the channel layer raises."""
        layer = get_channel_layer()
        assert layer is not None
        audience = self._audiences.setdefault(
            (listener.user.pk, listener.view), Audience(listener.user, listener.view)
        )
        audience.user = listener.user
        audience.arriving[listener] = Changes()
        async with self._joining:
            if self._ear is None or self._ear.done():
                self._channel = await layer.new_channel("pages")
                self._ear = asyncio.create_task(self._listen(layer, self._channel), name="hints to the pages")
            # Also where it is a member: a layer forgets its groups after a day, which is as long as a socket lives.
            for group in (ENGINE_GROUP, owner_group(listener.user.pk)):
                await layer.group_add(group, self._channel)

    def seat(self, listener: Listener) -> None:
        """The page has been told everything; what changed meanwhile is told now."""
        audience = self._audiences[listener.user.pk, listener.view]
        missed = audience.arriving.pop(listener)
        audience.seated.add(listener)
        if missed:
            self._note(audience, missed)

    async def leave(self, listener: Listener) -> None:
        """The page was closed, whether it had been seated or not."""
        key = (listener.user.pk, listener.view)
        audience = self._audiences.get(key)
        if audience is None:
            return
        audience.seated.discard(listener)
        audience.arriving.pop(listener, None)
        if not audience.seated and not audience.arriving:
            del self._audiences[key]
            self._waiting.pop(audience, None)
        async with self._joining:
            layer = get_channel_layer()
            if layer is not None and not self._of_owner(listener.user.pk):
                # Where the layer is away: whoever hears of nobody's pages ignores it.
                with suppress(Exception):
                    await layer.group_discard(owner_group(listener.user.pk), self._channel)

    def _of_owner(self, owner_id: int) -> list[Audience]:
        return [audience for (owner, _), audience in self._audiences.items() if owner == owner_id]

    # Hints are heard.

    async def _listen(self, layer: Any, channel: str) -> None:
        try:
            await self._hear_all(layer, channel)
        except Exception as problem:  # noqa: BLE001 - whatever a layer raises, the next sockets come with a new ear
            logger.warning("The channel layer is away; pages are closed and come back: %r", problem)
            for audience in list(self._audiences.values()):
                await self._close(audience, CLOSED_BY_FAILURE)

    async def _hear_all(self, layer: Any, channel: str) -> NoReturn:
        while True:
            await self._hear(await layer.receive(channel))

    async def _hear(self, message: dict[str, Any]) -> None:
        owner_id = message.get("owner_id")
        concerned = list(self._audiences.values()) if owner_id is None else self._of_owner(owner_id)
        for audience in concerned:
            if message["type"] == "access.changed":
                await self._close(audience, CLOSED_ANEW)
            else:
                self._note(audience, Changes.heard(message))

    async def _close(self, audience: Audience, code: int) -> None:
        for listener in (*audience.seated, *audience.arriving):
            with going_on(logger, "a socket could not be closed"):
                await listener.close(code=code)

    def _note(self, audience: Audience, changes: Changes) -> None:
        for missed in audience.arriving.values():
            missed.add(changes)
        if audience.seated:
            self._waiting.setdefault(audience, Changes()).add(changes)
            if self._mouth is None or self._mouth.done():
                self._mouth = asyncio.create_task(self._tell_all(), name="telling the pages")

    # Pages are told: at once, where nothing was told just before.

    async def _tell_all(self) -> None:
        while self._waiting:
            waiting = len(self._waiting)
            while waiting > 0 and self._waiting:
                some = list(islice(self._waiting, AT_ONCE))
                waiting -= len(some)
                await self._tell({audience: self._waiting.pop(audience) for audience in some})
            await asyncio.sleep(min(LONGEST_REST, REST_PER_SOCKET * open_sockets()))

    async def _tell(self, changes: dict[Audience, Changes]) -> None:
        wanted = [(each, audience.view, audience.user) for audience, each in changes.items()]
        for audience, html in zip(changes, await in_database(_render_all)(wanted), strict=True):
            if html is None:
                await self._close(audience, CLOSED_BY_FAILURE)
            for listener in tuple(audience.seated) if html else ():
                with going_on(logger, "a page was not told of a change"):
                    await listener.send(text_data=html)


def _render_all(wanted: list[tuple[Changes, str, Any]]) -> list[str | None]:
    """The message for each; None for one that could not be rendered, which is logged."""
    shared, messages = Shared(), list[str | None]()
    for changes, view, user in wanted:
        messages.append(None)
        with going_on(logger, "pages are not told of a change"):
            messages[-1] = render(changes, view, user, shared)
    return messages
