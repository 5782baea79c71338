"""The web server: daphne, told where it listens, with the engine's worker and the housekeeper on the same loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

# Importing daphne.server installs Twisted's asyncio reactor, so it must come before the reactor.
import daphne.server
from daphne.endpoints import build_endpoint_description_strings
from daphne.server import Server
from twisted.internet import defer, reactor
from twisted.python.failure import Failure

from generation.engine_worker import EngineWorker, StopRequests
from generation.housekeeper import Housekeeper
from musicgen_site import health
from musicgen_site.request_bodies import BODY, BodyOnDisk, BodyOnDiskFactory, with_bodies_from_disk

# daphne 4.2.3 has no other way to choose the class of its requests.
daphne.server.HTTPFactory = BodyOnDiskFactory

logger = logging.getLogger(__name__)

#: Requests under way get this long to be answered when the server stops, in seconds.
FINISH_BOUND = 3.0
#: Open sockets get this long to close when the server stops, in seconds.
CLOSE_BOUND = 3.0


class StudioServer(Server):
    """daphne's server, with a shutdown that cannot fail and a word when it listens.

    On its loop works the housekeeper, and the engine where there is one.
    """

    def __init__(
        self,
        application: Any,
        *,
        host: str,
        port: int,
        worker: EngineWorker | None,
        housekeeper: Housekeeper,
        on_listening: Callable[[str, int], None],
    ) -> None:
        self._worker = worker
        self._housekeeper = housekeeper
        self._on_listening = on_listening
        self._listening: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._requests = StopRequests()
        self._ports: list[Any] = []
        self.failure = ""
        super().__init__(
            with_bodies_from_disk(application),
            endpoints=build_endpoint_description_strings(host=host, port=port),
            # Streamed takes and slow uploads are bounded by their own limits, idle clients by this one.
            http_timeout=None,
            application_close_timeout=5,
            server_name="MusicGen Studio",
            ready_callable=self._begin,
            # Ours let work end first.
            signal_handlers=False,
        )

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        """Start the application for a request or a socket; a request's body waits in its scope."""
        if isinstance(protocol, BodyOnDisk):
            scope[BODY] = protocol.body
        return super().create_application(protocol, scope)

    def _begin(self) -> None:
        # daphne makes the reactor's loop the current one just before it calls this.
        loop = reactor._asyncioEventloop
        self._requests.listen(loop)
        self._ending = loop.create_task(self._end_when_asked())
        self._keeping = loop.create_task(self._housekeeper.run(), name="housekeeper")
        if self._worker is not None:
            self._listening = loop.create_task(self._worker.listen())
        # Also where the server ends without a signal: the address is taken.
        # Twisted takes a phase and an event here; its annotation knows only functions.
        reactor.addSystemEventTrigger("before", "shutdown", self._stop_work)  # type: ignore[arg-type]
        for port in self._ports:
            self._say_where(port)

    async def _end_when_asked(self) -> None:
        """Pages are served until the engine has ended; then requests under way get a moment."""
        await self._requests.asked.wait()
        health.say_stopping()
        if self._worker is not None:
            await self._requests.drain()
        for port in self._ports:
            # An awaited one would wait for its connections.
            defer.maybeDeferred(port.stopListening)
        if under_way := self._requests_under_way():
            await asyncio.wait(under_way, timeout=FINISH_BOUND)
        self.stop()

    def _requests_under_way(self) -> list[asyncio.Future[Any]]:
        answers = [
            details.get("application_instance")
            for protocol, details in self.connections.items()
            if isinstance(protocol, BodyOnDisk)
        ]
        return [answer for answer in answers if answer is not None and not answer.done()]

    def _stop_work(self) -> defer.Deferred[Any]:
        return defer.Deferred.fromFuture(asyncio.ensure_future(self._work_stopped()))

    async def _work_stopped(self) -> None:
        assert self._keeping is not None
        ends = [self._housekeeper.stop(self._keeping)]
        if self._worker is not None and self._listening is not None:
            ends.append(self._worker.stop(self._listening))
        await asyncio.gather(*ends)

    def listen_success(self, port: Any) -> None:
        """Say where the studio is, but not before a signal ends it as it should: daphne listens before it is ready."""
        super().listen_success(port)
        self._ports.append(port)
        if self._ending is not None:
            self._say_where(port)

    def _say_where(self, port: Any) -> None:
        address = port.getHost()  # with port 0 the system has chosen one
        self._on_listening(address.host, address.port)

    def listen_error(self, failure: Failure) -> None:
        """The address is taken or not ours: end with a sentence."""
        self.failure = failure.getErrorMessage()
        self.stop()

    def kill_all_applications(self) -> defer.Deferred[None]:
        """Cancel what still runs, before the reactor ends.

        daphne 4.2.3 raises KeyError here for a connection that has no application yet, and then waits for nothing.
        """
        waiting = []
        for details in list(self.connections.values()):
            instance = details.get("application_instance")
            if instance is not None and not instance.done():
                instance.cancel()
                waiting.append(instance)

        async def settle() -> None:
            began = time.monotonic()
            if waiting:
                await asyncio.wait(waiting, timeout=CLOSE_BOUND)
            logger.debug("%d connections closed in %.1f s", len(waiting), time.monotonic() - began)

        return defer.Deferred.fromFuture(asyncio.ensure_future(settle()))
