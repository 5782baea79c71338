"""Requests that come slowly, and uploads that come together: nobody holds a connection or the disk for ever."""

from types import SimpleNamespace
from typing import Any

# Before anything else of Twisted: it installs asyncio's reactor.
import daphne.server  # noqa: F401
import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from musicgen_site.request_bodies import HEAD_SECONDS, LEAST_RATE, BodyOnDisk, BodyOnDiskFactory

MB = 10**6


class Connection:
    """A connection to a server whose clock is ours. What is asked on it is not answered."""

    def __init__(self) -> None:
        nothing: Any = lambda *_: None  # noqa: E731
        server = SimpleNamespace(protocol_connected=nothing, protocol_disconnected=nothing)
        self.clock = Clock()
        self.protocol = BodyOnDiskFactory(server).buildProtocol(None)
        self.protocol.callLater = self.clock.callLater
        self.transport: Any = StringTransport()  # type: ignore[no-untyped-call]
        self.protocol.makeConnection(self.transport)

    def drip(self, text: bytes, *, seconds_each: float) -> float:
        """Send byte after byte until cut off; after how many seconds that was. 0 when it was not."""
        for byte in text:
            self.protocol.dataReceived(bytes([byte]))
            self.clock.advance(seconds_each)
            if self.transport.disconnecting:
                return self.clock.seconds()
        return 0.0

    def send(self, text: bytes) -> None:
        """At once."""
        self.protocol.dataReceived(text)

    @property
    def request(self) -> Any:
        """The one that is coming in."""
        return self.protocol._channel.requests[-1]


def head(path: str, length: int) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


@pytest.mark.parametrize("sent", [b"G" * 300, b"GET / HTTP/1.1\r\nX: " + b"y" * 300])
def test_a_head_that_drips_is_cut_off(sent: bytes) -> None:
    assert Connection().drip(sent, seconds_each=5) == HEAD_SECONDS


def test_a_body_that_drips_is_cut_off() -> None:
    connection = Connection()
    connection.send(head("/api/generations", 60_000))
    assert connection.drip(b"x" * 60_000, seconds_each=1) == HEAD_SECONDS + 60_000 / LEAST_RATE


def test_an_honest_upload_over_a_thin_line_comes_through() -> None:
    connection = Connection()
    length = 3 * MB
    connection.send(head("/api/adapters", length))
    for _ in range(length // LEAST_RATE - 1):
        connection.send(b"x" * LEAST_RATE)
        connection.clock.advance(1)
        assert not connection.transport.disconnecting
    connection.clock.advance(HEAD_SECONDS + 2)
    assert connection.transport.disconnecting, "and one that stops is cut off"


def test_who_is_silent_is_cut_off() -> None:
    connection = Connection()
    connection.clock.advance(HEAD_SECONDS)
    assert connection.transport.disconnecting


def test_uploads_that_do_not_fit_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would fit by itself: a stranger who sends many must not fill the disk."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=20 * MB))
    BodyOnDisk._uploads.clear()
    first, second = Connection(), Connection()
    first.send(head("/api/adapters", 4 * MB))
    second.send(head("/api/adapters", 4 * MB))
    assert (first.request.problem, second.request.problem) == (
        "",
        "there is no room for it beside other uploads",
    )
    second.send(b"x" * MB)
    assert second.request.content.tell() == 0, "nothing of it is written"
    # One that went away makes room.
    first.protocol.connectionLost(Failure(ConnectionDone()))  # type: ignore[no-untyped-call]
    third = Connection()
    third.send(head("/api/adapters", 4 * MB))
    assert third.request.problem == ""
