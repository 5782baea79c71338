"""Answers with a take while it is made: a WAV without an end, chunk by chunk, followed until the take is complete.

The row says what is there. A stream ends early where its engine died or the job went back to the queue.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final

from django.http import HttpResponseBase, StreamingHttpResponse

from generation.database import in_database
from generation.models import Job, JobStatus
from generation.services import live
from generation.services.live import LiveStream, NothingToHear

logger = logging.getLogger(__name__)

#: The row is read this often, in seconds.
LOOK_EVERY: Final = 0.2
#: A stream in which nothing new comes for so long ends, and any stream after so long, in seconds.
SILENCE_BOUND_SECONDS: Final = 300.0
STREAM_BOUND_SECONDS: Final = 2 * 3600.0
#: Most streams that one process follows, and of one person.
MAX_LISTENERS: Final = 64
MAX_LISTENERS_EACH: Final = 8

_UNKNOWN: Final = 0xFFFF_FFFF
_lock = threading.Lock()
_listeners: Counter[Any] = Counter()


def live_response(job: Job, variation: int, *, listener: Any) -> HttpResponseBase:
    """The stream of a variation from its beginning. Raises NothingToHear."""
    following = _Following(job.pk, variation, live.stream_to_hear(job, variation), listener)
    response = StreamingHttpResponse(following, content_type="audio/wav")
    response["Cache-Control"] = "no-store"
    # nginx would hold the sound back.
    response["X-Accel-Buffering"] = "no"
    return response


def wav_header(sample_rate: int, channels: int) -> bytes:
    """RIFF/WAVE of 16-bit samples whose end is not known: the length that stands for "as long as it comes"."""
    block = 2 * channels
    layout = struct.pack("<IHHIIHH", 16, 1, channels, sample_rate, sample_rate * block, block, 16)
    return (
        b"RIFF" + struct.pack("<I", _UNKNOWN) + b"WAVEfmt " + layout + b"data" + struct.pack("<I", _UNKNOWN)
    )


class _Following:
    """Header and chunks. Django closes it with the response, read or not."""

    def __init__(self, job_id: int, variation: int, stream: LiveStream, listener: Any) -> None:
        self._job_id, self._variation, self._stream, self._listener = job_id, variation, stream, listener
        with _lock:
            if _listeners.total() >= MAX_LISTENERS or _listeners[listener] >= MAX_LISTENERS_EACH:
                raise NothingToHear(
                    live.TOO_MANY,
                    "Too many takes are being listened to right now. End one, or wait for the take.",
                )
            _listeners[listener] += 1
        self._is_open = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        stream: LiveStream | None = self._stream
        yield wav_header(self._stream.sample_rate, self._stream.channels)
        sent, ends_at = 0, time.monotonic() + STREAM_BOUND_SECONDS
        silent_at = time.monotonic() + SILENCE_BOUND_SECONDS
        while stream is not None and time.monotonic() < min(ends_at, silent_at):
            while sent < stream.chunks:
                try:
                    yield await asyncio.to_thread(live.read_chunk, stream.name, sent)
                except OSError as problem:
                    # Gone with its job, or the storage is away: what was sent stands for itself.
                    logger.info("the live audio of job %s ends early: %s", self._job_id, problem)
                    return
                sent += 1
                silent_at = time.monotonic() + SILENCE_BOUND_SECONDS
            if stream.is_complete:
                return
            await asyncio.sleep(LOOK_EVERY)
            stream = await in_database(self._further)(sent)

    def _further(self, sent: int) -> LiveStream | None:
        """What the row says now; None where no more of this stream will come."""
        job = Job.objects.only("status", "live").filter(pk=self._job_id).first()
        stream = live.streams_of(job).get(self._variation) if job is not None else None
        if job is None or stream is None or stream.name != self._stream.name:
            return None
        return stream if job.status == JobStatus.RUNNING or stream.chunks > sent else None

    def close(self) -> None:
        with _lock:
            if self._is_open:
                self._is_open = False
                _listeners[self._listener] -= 1
                if not _listeners[self._listener]:
                    del _listeners[self._listener]
