"""Pages as the server sees them: sockets that stay open, answer pings and keep in mind which takes they were told of.

A WebSocket client of what the benchmark needs and no more (RFC 6455: text, ping, close; no extensions).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import struct
from dataclasses import dataclass, field
from typing import Final

_TEXT: Final = 0x1
_CLOSE: Final = 0x8
_PING: Final = 0x9
_PONG: Final = 0xA
_TAKE_OF_JOB: Final = re.compile(rb'data-job-id="(\d+)"')


@dataclass
class PageSocket:
    """One open page of the studio. `jobs_told` are those whose take it was told of."""

    person: int
    jobs_told: set[int] = field(default_factory=set)
    messages: int = 0
    is_open: bool = False
    opened: int = 0

    async def stay(self, host: str, port: int, cookie: str) -> None:
        """Open it, and again whenever it is closed or refused, as a page does. Until cancelled."""
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self.listen(host, port, cookie)
            await asyncio.sleep(1)

    async def listen(self, host: str, port: int, cookie: str) -> None:
        """Open it and read until cancelled, or until the server closes it. Raises OSError when it is refused."""
        reader, writer = await asyncio.open_connection(host, port)
        try:
            await self._open(reader, writer, f"{host}:{port}", cookie)
            self.is_open = True
            self.opened += 1
            while await self._read(reader, writer):
                pass
        except asyncio.IncompleteReadError:
            return
        finally:
            self.is_open = False
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _open(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str, cookie: str
    ) -> None:
        lines = [
            "GET /ws/studio/?view=studio HTTP/1.1",
            f"Host: {address}",
            f"Origin: http://{address}",
            f"Cookie: {cookie}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise OSError(f"a socket was refused: {head[:200]!r}")

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One frame; False when it was the last."""
        first, length = struct.unpack("!BB", await reader.readexactly(2))
        if length == 126:
            (length,) = struct.unpack("!H", await reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await reader.readexactly(8))
        content = await reader.readexactly(length)
        kind: int = first & 0x0F
        if kind == _PING:
            # A client masks what it sends; any mask will do.
            writer.write(struct.pack("!BBI", 0x80 | _PONG, 0x80 | len(content), 0) + content)
        elif kind == _TEXT:
            self.messages += 1
            self.jobs_told |= {int(number) for number in _TAKE_OF_JOB.findall(content)}
        return kind != _CLOSE
