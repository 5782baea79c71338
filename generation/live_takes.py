"""What of a job's takes can be heard early, as its engine hands it on: from the runner's scratch files to the storage.

Nothing that goes wrong here touches the takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from generation.database import going_on
from generation.engine import protocol
from generation.models import Job
from generation.services import live
from generation.services.live import LiveStream

logger = logging.getLogger(__name__)

#: Who hears a take as it ends gets so many seconds to fetch its last chunk.
LAST_CHUNK_SECONDS: Final = 30.0


class LiveTakes:
    """The streams of one job while one engine works on it."""

    def __init__(self, job: Job, scratch: Path, look: Callable[[], Awaitable[None]]) -> None:
        """`scratch` is where the runner writes; `look` writes the job's row now."""
        self._job, self._scratch, self._look = job, scratch, look
        self._streams: dict[str, LiveStream] = {}  # by name; the row forgets them when the job goes back
        self._given_up: set[str] = set()

    def begin(self, variation: int, request: str, loaded: protocol.LoadFinished) -> str | None:
        """Where the runner puts the chunks of a request; None where nothing is heard early."""
        if not live.is_on():
            return None
        self._note(variation, LiveStream(request, loaded.sample_rate, loaded.channels))
        return str(self._scratch / request)

    async def hand_on(self, variation: int, event: protocol.RequestAudio) -> None:
        """Store a chunk and let the row say it: the first one at once."""
        stream = self._streams.get(event.request)
        source = Path(event.path)
        if stream is None or stream.name in self._given_up:
            await asyncio.to_thread(source.unlink, missing_ok=True)
            return
        try:
            await asyncio.to_thread(live.store_chunk, stream.name, event.chunk, source)
        except OSError as problem:
            # What was heard of it so far stays; the take comes whole.
            self._given_up.add(stream.name)
            logger.warning("job %s is not heard early any more: %s", self._job.pk, problem)
            return
        self._note(variation, replace(stream, chunks=event.chunk + 1, is_complete=event.is_last))
        if event.chunk == 0:
            with going_on(logger, f"that job {self._job.pk} can be heard could not be stored"):
                await self._look()

    async def remove_later(self, stopping: asyncio.Event) -> None:
        """Remove everything, once those who listen have had their time, or the engine stops."""
        if not self._streams:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), LAST_CHUNK_SECONDS)
        await asyncio.to_thread(self._remove)

    def _remove(self) -> None:
        live.remove_streams(self._streams.values())
        for name in self._streams:
            # What a runner that died had written and not told.
            for left in self._scratch.glob(f"*{name}-*"):
                left.unlink(missing_ok=True)

    def _note(self, variation: int, stream: LiveStream) -> None:
        self._streams[stream.name] = stream
        live.note_stream(self._job, variation, stream)
