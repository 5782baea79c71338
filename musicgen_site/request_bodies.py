"""How daphne takes in the body of a request: to disk, within its bound, and on to Django a piece at a time.

By itself daphne 4.2.3 queues a whole body in memory, and Twisted parses a posted form there once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO, ClassVar, Final
from weakref import WeakSet

from daphne.http_protocol import HTTPFactory, WebRequest

from musicgen_site.request_bounds import COPIES, MAX_BODY_BYTES, body_limit, refusal

logger = logging.getLogger(__name__)

#: The key of the scope under which a body waits.
BODY: Final = "musicgen.body"
_PIECE_BYTES: Final = 1024 * 1024
#: The head of a request must be in within this time, in seconds, and as long may a connection be idle.
HEAD_SECONDS: Final = 60.0
#: A body may come as slowly as this, in bytes a second, beside that time.
LEAST_RATE: Final = 30_000


class BodyOnDisk(WebRequest):
    """A request whose body Twisted keeps in a file; what is over the bound is dropped as it comes in.

    It is not cut off: a browser that is still sending would never read the refusal.
    """

    content: BinaryIO
    body: BinaryIO | None = None
    limit = MAX_BODY_BYTES
    received_bytes = 0
    announced = 0
    problem = ""
    #: Uploads that lie on the disk or will in a moment, of all connections of this process.
    _uploads: ClassVar[WeakSet[BodyOnDisk]] = WeakSet()

    def gotLength(self, length: int | None) -> None:  # noqa: N802 - a name of Twisted
        """The headers are in. Twisted makes the file, in memory for less than 100 kB."""
        channel = self.channel
        method = getattr(channel, "_command", b"POST").decode("latin-1")
        path = getattr(channel, "_path", b"").decode("latin-1").partition("?")[0]
        limit = body_limit(method, path)
        # A body that does not say its length is never an upload; a body that says too much is refused for it.
        self.limit = min(limit, MAX_BODY_BYTES) if length is None else limit if length <= limit else 0
        # By the clock and not from byte to byte: who sends one now and then would hold a connection for ever.
        channel.setTimeout(HEAD_SECONDS + min(length or MAX_BODY_BYTES, self.limit) / LEAST_RATE)
        super().gotLength(None if length is None else min(length, self.limit))
        if length is not None and MAX_BODY_BYTES < length <= self.limit:
            self._require_room(length)

    def handleContentChunk(self, content: bytes) -> None:  # noqa: N802 - a name of Twisted
        """Some of the body. One piece over the bound is kept, so that whoever counts sees that it is over."""
        if self.received_bytes <= self.limit and not self.problem and self.limit:
            with self._noting_a_full_disk():
                super().handleContentChunk(content)
        self.received_bytes += len(content)

    @contextlib.contextmanager
    def _noting_a_full_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            logger.warning("an upload cannot be kept: %s", error)
            self.problem = error.strerror or str(error)

    def _require_room(self, length: int) -> None:
        """Together with what others are sending right now: each by itself would fit."""
        others = sum(each.announced for each in self._uploads if each.is_in_hand)
        self.announced = length
        self._uploads.add(self)
        if shutil.disk_usage(tempfile.gettempdir()).free < COPIES * (length + others):
            self.problem = "there is no room for it beside other uploads"

    @property
    def is_in_hand(self) -> bool:
        """Whether the body is still needed."""
        return not (self.body or self.content).closed and not self.problem

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:  # noqa: N802 - a name of Twisted
        """All is in. Twisted and daphne find an empty body, so that neither reads it into memory."""
        # What the channel goes back to for the next request.
        self.channel._savedTimeOut = HEAD_SECONDS
        # Going back writes the last bytes, which a full disk does not take either; nor does it let go of them quietly.
        with self._noting_a_full_disk():
            self.content.seek(0)
        self.body, self.content = self.content, io.BytesIO()
        if self.problem:
            with contextlib.suppress(OSError):
                self.body.close()
        super().requestReceived(command, path, version)

    def process(self) -> Any:
        """Hand the request to the application, unless its body could not be kept."""
        if self.problem:
            sentence = f"The upload could not be kept: {self.problem}. Free some space on the studio's disk and try again."
            for message in refusal(507, sentence, "DISK_FULL"):
                self.handle_reply(message)
            return None
        return super().process()


class BodyOnDiskFactory(HTTPFactory):
    """Makes connections whose requests are of our kind."""

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802 - a name of Twisted
        """A connection."""
        protocol = super().buildProtocol(addr)
        protocol.requestFactory = BodyOnDisk
        protocol.timeOut = HEAD_SECONDS
        # Twisted would begin to count anew with each byte.
        protocol._channel.resetTimeout = lambda: None
        return protocol


def with_bodies_from_disk(application: Any) -> Any:
    """ASGI middleware: reads a waiting body as fast as the application asks for it."""

    async def run(scope: dict[str, Any], receive: Any, send: Any) -> Any:
        body: BinaryIO | None = scope.pop(BODY, None)
        if body is None:
            return await application(scope, receive, send)
        is_read = False

        async def piece() -> Any:
            nonlocal is_read
            if not is_read:
                in_memory = isinstance(body, io.BytesIO)
                content = body.read() if in_memory else await asyncio.to_thread(body.read, _PIECE_BYTES)
                is_read = in_memory or not content
                return {"type": "http.request", "body": content, "more_body": not is_read}
            message = await receive()
            # daphne's own word about the body, which it believes to be empty.
            return await receive() if message["type"] == "http.request" else message

        try:
            return await application(scope, piece, send)
        finally:
            body.close()

    return run
