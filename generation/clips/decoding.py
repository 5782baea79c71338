"""Have a stranger's sound file decoded by a short-lived process with limits on time and memory.

The studio itself never reads such a file: what a library makes of it can only end that process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gated_configs.wording import THIN_SPACE, gigabytes, plain_number

#: Longest clip.
LONGEST_SECONDS: Final = 600.0
#: On the clock; the process has a bound of its own on the processor.
_CLOCK_SECONDS: Final = 120.0
#: So many files are decoded at a time by one process of the studio; the next ones wait.
_turn = threading.BoundedSemaphore(2)
_ROOT: Final = Path(__file__).resolve().parent.parent.parent
_KEPT_VARIABLES: Final = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")

_SENTENCES: Final = {
    "CLIP_NOT_AUDIO": "This is no sound file that can be read. Send WAV, FLAC, MP3 or OGG.",
    "CLIP_CHANNELS": "The clip has {channels} channels. Mix it to mono or stereo first.",
    "CLIP_RATE": "The clip has {sample_rate} samples a second. Export it at a usual rate, such as 44100.",
    "CLIP_TOO_LONG": "The clip is longer than 10 minutes, the limit. Cut it to the part you need.",
    "CLIP_NOT_FINITE": "The clip holds samples that are not numbers. Export it anew.",
    "CLIP_TOO_SHORT": "The clip has {seconds} and needs at least 1 s. Choose a longer one.",
    "CLIP_EMPTY": "The clip is empty. Choose one of at least 1 s.",
    "DISK_FULL": "The clip could not be kept. Free some space on the studio's disk and try again.",
    "CLIP_LIMIT": "Reading this file takes more time or memory than a clip may have; it was stopped. Export it anew.",
}


class ClipRefused(ValueError):
    """The file does not become a clip. `str()` is the sentence for people, `code` and `facts` are for scripts."""

    def __init__(self, code: str, sentence: str = "", **facts: Any) -> None:
        self.code = code
        self.facts = facts
        seconds = f"{plain_number(round(facts.get('seconds', 0.0), 2))}{THIN_SPACE}s"
        super().__init__(sentence or _SENTENCES[code].format(**{**facts, "seconds": seconds}))


@dataclass(frozen=True)
class Decoded:
    """What stands in the new file."""

    frames: int
    sample_rate: int
    channels: int

    @property
    def duration_seconds(self) -> float:
        """How long it is."""
        return self.frames / self.sample_rate


def too_large(most_bytes: int) -> str:
    """The sentence for a file over the limit."""
    return (
        f"The clip is larger than {gigabytes(most_bytes)}, the limit here. Send a part of it, or FLAC or MP3."
        " MUSICGEN_MAX_CLIP_MB sets the limit."
    )


def decode_clip(source: Path, target: Path) -> Decoded:
    """Write a sound file anew as 16-bit FLAC of the same rate and channels. Raises ClipRefused, OSError."""
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    with _turn:
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "generation.clips", str(source), str(target), str(LONGEST_SECONDS)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd=_ROOT,
                timeout=_CLOCK_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise ClipRefused("CLIP_LIMIT") from late
    try:
        answer: dict[str, Any] = json.loads(ended.stdout)
    except ValueError as cut:
        raise ClipRefused("CLIP_LIMIT") from cut
    if code := answer.pop("refused", None):
        raise ClipRefused(code, **answer)
    return Decoded(**answer)
