"""Open pages that show the same thing to the same person: what changed is read and rendered once, and told to all.

The more sockets this process holds, the more changes are told together: with hundreds of pages open, each telling every
move of the queue at once would take the processor from the engine that moves it.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import islice
from typing import Any, ClassVar, Final, Protocol

from generation.database import going_on, in_database
from generation.open_sockets import open_sockets
from generation.page_content import Changes, Shared, render

logger = logging.getLogger(__name__)

#: Rest between two tellings, in seconds for each socket that this process holds.
REST_PER_SOCKET: Final = 0.004
#: No page shows for much longer, in seconds, what is no longer true.
LONGEST_REST: Final = 2.0
#: So many audiences are read for at once, with one connection and one reading of what they share.
AT_ONCE: Final = 25


class Listener(Protocol):
    """A socket's consumer."""

    user: Any

    async def send(self, text_data: str | None = None) -> None:
        """Send a message."""

    async def close(self, code: int | None = None) -> None:
        """Close the socket; the page opens another."""


class Audience:
    """The pages of one person that show the same view, in this process."""

    _all: ClassVar[dict[tuple[int, str], Audience]] = {}
    #: Those that something is to be told to, in the order in which they began to wait.
    _waiting: ClassVar[dict[Audience, Changes]] = {}
    _telling: ClassVar[asyncio.Task[None] | None] = None

    def __init__(self, user: Any, view: str) -> None:
        self.user, self.view = user, view
        self._listeners: set[Listener] = set()

    @classmethod
    def join(cls, listener: Listener, view: str) -> Audience:
        """Seat a page that has been told everything: what changed meanwhile must be noted after this."""
        audience = cls._all.setdefault((listener.user.pk, view), cls(listener.user, view))
        audience.user = listener.user
        audience._listeners.add(listener)
        return audience

    def leave(self, listener: Listener) -> None:
        """The page was closed."""
        self._listeners.discard(listener)
        if not self._listeners:
            self._all.pop((self.user.pk, self.view), None)
            self._waiting.pop(self, None)

    def note(self) -> Changes:
        """What is to be told soon, to be added to; at once, where nothing was told just before."""
        cls = type(self)
        if cls._telling is None or cls._telling.done():
            cls._telling = asyncio.create_task(cls._tell_all(), name="telling the pages")
        return self._waiting.setdefault(self, Changes())

    @classmethod
    async def _tell_all(cls) -> None:
        while cls._waiting:
            waiting = len(cls._waiting)
            while waiting > 0 and cls._waiting:
                some = list(islice(cls._waiting, AT_ONCE))
                waiting -= len(some)
                await cls._tell(some, [cls._waiting.pop(audience) for audience in some])
            await asyncio.sleep(min(LONGEST_REST, REST_PER_SOCKET * open_sockets()))

    @staticmethod
    async def _tell(audiences: list[Audience], changes: list[Changes]) -> None:
        wanted = [
            (each, audience.view, audience.user) for each, audience in zip(changes, audiences, strict=True)
        ]
        for audience, html in zip(audiences, await in_database(_render_all)(wanted), strict=True):
            for listener in tuple(audience._listeners):
                with going_on(logger, "a page was not told of a change"):
                    if html is None:
                        # It comes back by itself and is told everything.
                        await listener.close(code=1011)
                    elif html:
                        await listener.send(text_data=html)


def _render_all(wanted: list[tuple[Changes, str, Any]]) -> list[str | None]:
    """The message for each; None for one that could not be rendered, which is logged."""
    shared, messages = Shared(), list[str | None]()
    for changes, view, user in wanted:
        messages.append(None)
        with going_on(logger, "pages are not told of a change"):
            messages[-1] = render(changes, view, user, shared)
    return messages
