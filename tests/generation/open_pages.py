"""Open pages for tests of what is pushed to them: a socket each, and the HTML that it was sent."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import async_to_sync
from channels.db import database_sync_to_async
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User

from gated_configs.wording import THIN_SPACE
from generation.consumers import StudioConsumer

Scenario = Callable[..., Awaitable[None]]


def rows(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that uses the database, for use inside a scenario."""
    wrapped: Callable[..., Any] = database_sync_to_async(function, thread_sensitive=False)
    return wrapped


class Page:
    """An open page: the socket, and the HTML of each element that it was sent, newest last."""

    def __init__(self, user: User, view: str = "studio") -> None:
        self.socket = WebsocketCommunicator(StudioConsumer.as_asgi(), f"/ws/studio/?view={view}")
        self.socket.scope["user"] = user
        self.received: list[str] = []

    async def open(self) -> str:
        """Connect and return the snapshot."""
        connected, _ = await self.socket.connect(timeout=20)
        assert connected
        return await self.next()

    async def next(self, within: float = 20) -> str:
        """The next push, with plain spaces."""
        html: str = (await self.socket.receive_from(within)).replace(THIN_SPACE, " ")
        self.received.append(html)
        return html

    async def until(self, words: str | re.Pattern[str], within: float = 120) -> str:
        """Read on until a push holds these words."""
        pattern = re.compile(re.escape(words)) if isinstance(words, str) else words
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while not pattern.search(html := await self.next(max(0.1, deadline - loop.time()))):
            pass
        return html

    async def is_silent(self) -> bool:
        """Whether nothing more was sent."""
        return bool(await self.socket.receive_nothing(timeout=0.3))

    async def close(self) -> None:
        """Leave."""
        await self.socket.disconnect(timeout=20)


def scenario_of(*people: User, view: str = "studio") -> Callable[[Scenario], None]:
    """Run a scenario with a page open for each person, and close them in any case."""

    def run(scenario: Scenario) -> None:
        async def whole() -> None:
            pages = [Page(person, view) for person in people]
            try:
                await scenario(*pages)
            finally:
                for page in pages:
                    await page.close()

        async_to_sync(whole)()

    return run
