"""Answer with an audio file, or the part of it that a Range header names (RFC 9110, section 14).

Django's FileResponse ignores ranges and reads the whole file under ASGI; players need ranges to seek.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import BinaryIO, Final
from urllib.parse import quote

from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseNotModified,
    StreamingHttpResponse,
)

from registry.media import OpenedMedia

CHUNK_BYTES: Final = 256 * 1024
_ONE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class RangeNotSatisfiable(ValueError):
    """The range begins after the end of the file."""


def parse_range(header: str, size_bytes: int) -> tuple[int, int] | None:
    """First and last byte that the header asks for, or None when the whole file is the answer.

    What is not one plain byte range is ignored, as the RFC allows. Raises RangeNotSatisfiable.
    """
    match = _ONE_RANGE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        wanted = int(last)
        if wanted == 0 or size_bytes == 0:
            raise RangeNotSatisfiable
        return max(0, size_bytes - wanted), size_bytes - 1
    start, end = int(first), int(last) if last else size_bytes - 1
    if last and end < start:
        return None
    if start >= size_bytes:
        raise RangeNotSatisfiable
    return start, min(end, size_bytes - 1)


def audio_response(
    request: HttpRequest, opened: OpenedMedia, *, media_type: str, entity_tag: str, download_name: str = ""
) -> HttpResponseBase:
    """200, 206, 304 or 416 for a file. Takes never change, so browsers may keep them; `download_name` saves it.

    The file is closed with the answer. One of a disk may be removed meanwhile: it is open and read to its end. Raises
    what its `stream` raises.
    """
    try:
        response = _answer(request, opened, media_type, entity_tag, download_name)
    except BaseException:
        opened.close()
        raise
    if not response.streaming:
        opened.close()
    return response


def _answer(
    request: HttpRequest, opened: OpenedMedia, media_type: str, entity_tag: str, download_name: str
) -> HttpResponseBase:
    size_bytes = opened.size_bytes
    tag = f'"{entity_tag}"'
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": tag,
        "Cache-Control": "private, max-age=31536000, immutable",
    }
    if download_name:
        headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(download_name, safe='')}"
    if _names(request.headers.get("If-None-Match", ""), tag):
        return HttpResponseNotModified(headers=headers)
    wanted = None
    if "Range" in request.headers and request.headers.get("If-Range", tag) == tag:
        try:
            wanted = parse_range(request.headers["Range"], size_bytes)
        except RangeNotSatisfiable:
            return HttpResponse(status=416, headers={**headers, "Content-Range": f"bytes */{size_bytes}"})
    start, end = wanted or (0, size_bytes - 1)
    headers["Content-Length"] = str(end - start + 1)
    if wanted:
        headers["Content-Range"] = f"bytes {start}-{end}/{size_bytes}"
    status = 206 if wanted else 200
    if request.method == "HEAD":
        return HttpResponse(status=status, headers=headers, content_type=media_type)
    length = end - start + 1
    # Asked for before the first byte is sent: what a storage refuses can still be told.
    stream = opened.stream(start, length) if length else io.BytesIO()
    part = _Part(opened, stream, length)
    return StreamingHttpResponse(part, status=status, headers=headers, content_type=media_type)


def _names(header: str, tag: str) -> bool:
    """Whether an If-None-Match header names the tag: one of a list, weak or strong, or `*` for any."""
    return any(name.strip().removeprefix("W/") in (tag, "*") for name in header.split(","))


@dataclass
class _Part:
    """Bytes of an open file, chunk by chunk. Django closes it with the response, read or not."""

    opened: OpenedMedia
    stream: BinaryIO
    length: int

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self.length
        while left > 0 and (chunk := await asyncio.to_thread(self.stream.read, min(CHUNK_BYTES, left))):
            left -= len(chunk)
            yield chunk

    def close(self) -> None:
        self.stream.close()
        self.opened.close()
