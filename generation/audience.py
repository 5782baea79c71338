"""Open pages that show the same thing to the same person: what changed is read and rendered once, and told to all.

The more sockets this process holds, the more changes are told together: with hundreds of pages open, each telling every
move of the queue at once would take the processor from the engine that moves it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, Protocol

from generation.database import going_on, in_database
from generation.open_sockets import open_sockets
from generation.page_content import Changes, render

logger = logging.getLogger(__name__)

#: Rest between two messages to a page, in seconds for each socket that this process holds.
REST_PER_SOCKET: Final = 0.004
#: No page shows for longer, in seconds, what is no longer true.
LONGEST_REST: Final = 2.0


class Listener(Protocol):
    """A socket's consumer."""

    user: Any

    async def send(self, text_data: str | None = None) -> None:
        """Send a message."""

    async def close(self, code: int | None = None) -> None:
        """Close the socket; the page opens another."""


class Audience:
    """The pages of one person that show the same view, in this process."""

    _all: dict[tuple[int, str], Audience] = {}

    def __init__(self, user: Any, view: str) -> None:
        self.user, self.view = user, view
        self._listeners: set[Listener] = set()
        self._changes = Changes()
        self._telling: asyncio.Task[None] | None = None

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
            if self._telling is not None:
                self._telling.cancel()

    def note(self) -> Changes:
        """What is to be told soon, to be added to; at once, where nothing was told just before."""
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell(), name=f"pages of {self.user.pk}: {self.view}")
        return self._changes

    async def _tell(self) -> None:
        while self._changes and self._listeners:
            changes, self._changes = self._changes, Changes()
            # Pages that could not be told are closed: they come back by themselves and are told everything.
            is_read, html = False, ""
            with going_on(logger, "pages were not told of a change"):
                html = await in_database(render)(changes, self.view, self.user)
                is_read = True
            if not is_read:
                for listener in tuple(self._listeners):
                    await listener.close(code=1011)
                return
            if html:
                told = (listener.send(text_data=html) for listener in tuple(self._listeners))
                await asyncio.gather(*told, return_exceptions=True)
            await asyncio.sleep(min(LONGEST_REST, REST_PER_SOCKET * open_sockets()))
