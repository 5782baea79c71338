"""What can be heard of takes while they are made: chunks in the storage, named by the job's row.

Files first, then the row; at the end the row first. A stream has a name of its own, so that a take that is begun again
is never mixed with what was made of it before.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from django.conf import settings

from generation.engine.protocol import LIVE_LEAD_SECONDS
from generation.models import Job, JobStatus
from registry.media import live_media

logger = logging.getLogger(__name__)

#: Chunks of jobs, with the job's number.
CHUNK_NAME: Final = re.compile(r"\.?(\d+)-\d+-[0-9a-f]{8}-\d{4,}\.pcm(\.part)?", re.ASCII)

LIVE_OFF: Final = "LIVE_OFF"
NOT_YET: Final = "NOTHING_TO_HEAR_YET"
ENDED: Final = "JOB_ENDED"
TOO_MANY: Final = "TOO_MANY_LISTENERS"


class NothingToHear(Exception):
    """`str()` is the sentence for people, `code` and `facts` are for programs."""

    def __init__(self, code: str, sentence: str, **facts: Any) -> None:
        self.code, self.facts = code, facts
        super().__init__(sentence)


@dataclass(frozen=True)
class LiveStream:
    """The chunks of one variation as far as they are there: 16-bit little-endian samples, channels in turn."""

    name: str
    sample_rate: int
    channels: int
    chunks: int = 0
    is_complete: bool = False


def is_on() -> bool:
    """Whether takes are heard while they are made."""
    return bool(settings.STUDIO.live_audio)


def streams_of(job: Job) -> dict[int, LiveStream]:
    """The streams that the row names, by variation."""
    return {int(number): LiveStream(**fields) for number, fields in (job.live or {}).items()}


def audible(job: Job) -> dict[int, LiveStream]:
    """Streams of a running job of which something can be heard and something is still to come, by variation."""
    if job.status != JobStatus.RUNNING:
        return {}
    return {
        number: stream
        for number, stream in sorted(streams_of(job).items())
        if stream.chunks and not stream.is_complete
    }


def heard_seconds(job: Job) -> float:
    """How long the stream of one of its takes will be: what is new, and the end of what it goes on from."""
    return job.duration_seconds + min(LIVE_LEAD_SECONDS, job.continued_from_seconds or 0.0)


def note_stream(job: Job, variation: int, stream: LiveStream) -> None:
    """Let the row say it when it is written next."""
    job.live = {**(job.live or {}), str(variation): asdict(stream)}


def stream_to_hear(job: Job, variation: int) -> LiveStream:
    """The stream of a variation from which at least one chunk can be heard. Raises NothingToHear."""
    take = job.takes.kept().filter(variation=variation).first()
    stream = streams_of(job).get(variation)
    if job.status == JobStatus.RUNNING and stream is not None and stream.chunks:
        return stream
    if take is not None:
        raise NothingToHear(
            ENDED,
            f"This take is ready: hear it at {take.audio_url}.",
            status=job.status,
            take_id=take.pk,
            audio_url=take.audio_url,
        )
    if not job.is_unfinished:
        raise NothingToHear(
            ENDED, f"The job has ended without this take: it is {job.status}.", status=job.status
        )
    if not is_on():
        raise NothingToHear(
            LIVE_OFF,
            "Takes are not heard before they are ready here: MUSICGEN_LIVE_AUDIO is off. Wait for the take.",
        )
    raise NothingToHear(
        NOT_YET, "Nothing of this take can be heard yet. Ask again in a moment.", status=job.status
    )


def chunk_name(stream_name: str, chunk: int) -> str:
    """The file of a chunk."""
    return f"{stream_name}-{chunk:04d}.pcm"


def store_chunk(stream_name: str, chunk: int, source: Path) -> None:
    """Take a runner's file in. The source is gone afterwards. Raises OSError, MediaAway too."""
    try:
        with live_media().writing(chunk_name(stream_name, chunk)) as target:
            target.parent.mkdir(parents=True, exist_ok=True)
            # Home and scratch are one disk, unless somebody linked one elsewhere.
            aside = target.with_name(f".{target.name}.part")
            shutil.move(source, aside)
            aside.replace(target)
    finally:
        source.unlink(missing_ok=True)


def read_chunk(stream_name: str, chunk: int) -> bytes:
    """The samples of a chunk, a second or two. Raises FileNotFoundError, MediaAway."""
    opened = live_media().opened(chunk_name(stream_name, chunk))
    try:
        if not opened.size_bytes:
            return b""
        stream = opened.stream(0, opened.size_bytes)
        try:
            return stream.read()
        finally:
            stream.close()
    finally:
        opened.close()


def remove_streams(streams: Iterable[LiveStream]) -> None:
    """Remove their chunks. What a storage that is away keeps, the clean-up finds."""
    try:
        for stream in streams:
            # One more: it may have been stored by who died before the row said so.
            for chunk in range(stream.chunks + 1):
                live_media().remove(chunk_name(stream.name, chunk))
    except OSError as problem:
        logger.warning("what was heard early of a take stays for now: %s", problem)
