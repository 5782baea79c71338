"""The decoder's process: it reads one sound file of a stranger, writes it anew as 16-bit FLAC, says so, and ends.

Limits are the kernel's and are set before the file is opened. Knows nothing of Django, nor of rows.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    import soundfile

#: Seconds of processor time. Ten minutes of MP3 take a few.
PROCESSOR_SECONDS: Final = 60
MEMORY_BYTES: Final = 1024**3
#: libsndfile's names of the containers that are taken in.
CONTAINERS: Final = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "FLAC", "OGG", "MP3"})
LOWEST_RATE: Final = 8_000
HIGHEST_RATE: Final = 192_000
MOST_CHANNELS: Final = 2
#: Between a rate that shares nothing with the models' and theirs no engine makes a filter.
_USUAL_RATE: Final = 32_000
_MOST_PHASES: Final = 1 << 24
_BLOCK_FRAMES: Final = 1 << 16
_FULL_SCALE: Final = 32768


class Unfit(Exception):
    """What is wrong with the file: a code, and figures."""

    def __init__(self, code: str, **facts: float) -> None:
        self.answer: dict[str, Any] = {"refused": code, **facts}
        super().__init__(code)


def main(source: str, target: str, longest_seconds: float) -> None:
    """Print one line of JSON: what stands in the new file, or why there is none."""
    most_bytes = round(longest_seconds * HIGHEST_RATE * MOST_CHANNELS * 2.2)
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, PROCESSOR_SECONDS),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, most_bytes),
        (resource.RLIMIT_NOFILE, 64),
    ):
        _set_limit(kind, limit)
    try:
        answer = decode(source, target, longest_seconds)
    except Unfit as unfit:
        answer = unfit.answer
    sys.stdout.write(json.dumps(answer) + "\n")


def decode(source: str, target: str, longest_seconds: float) -> dict[str, Any]:
    """Write the file anew at its own rate. Raises Unfit.

    It is read twice: what is louder than full scale is turned down as a whole, nothing is clipped.
    """
    import numpy as np
    import soundfile

    with _opened(source) as file:
        frames, loudest = _measure(file, longest_seconds)
        rate, channels = file.samplerate, file.channels
    gain = _FULL_SCALE / max(1.0, loudest)
    try:
        with (
            _opened(source) as file,
            soundfile.SoundFile(target, "w", rate, channels, format="FLAC", subtype="PCM_16") as output,
        ):
            written = 0
            while written < frames and len(block := _block(file, frames - written)):
                # By hand and not by libsndfile, which scales by a little less: 16 bits stay what they are.
                output.write(np.rint(block * gain).clip(-_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16))
                written += len(block)
    except soundfile.LibsndfileError as problem:
        raise Unfit("DISK_FULL") from problem
    if written != frames:
        raise Unfit("CLIP_NOT_AUDIO")
    return {"frames": frames, "sample_rate": rate, "channels": channels}


def _opened(source: str) -> soundfile.SoundFile:
    import soundfile

    try:
        return soundfile.SoundFile(source)
    except soundfile.LibsndfileError as problem:
        raise Unfit("CLIP_NOT_AUDIO") from problem


def _measure(file: soundfile.SoundFile, longest_seconds: float) -> tuple[int, float]:
    """How many frames there really are, whatever the file says of itself, and the loudest sample."""
    import numpy as np

    if file.format not in CONTAINERS:
        raise Unfit("CLIP_NOT_AUDIO")
    if not 1 <= file.channels <= MOST_CHANNELS:
        raise Unfit("CLIP_CHANNELS", channels=file.channels)
    shared = math.gcd(file.samplerate, _USUAL_RATE)
    is_odd = file.samplerate // shared * (_USUAL_RATE // shared) > _MOST_PHASES
    if is_odd or not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
        raise Unfit("CLIP_RATE", sample_rate=file.samplerate)
    most = int(longest_seconds * file.samplerate)
    frames, loudest = 0, 0.0
    while len(block := _block(file, _BLOCK_FRAMES)):
        frames += len(block)
        if frames > most:
            raise Unfit("CLIP_TOO_LONG", seconds=max(frames, file.frames) / file.samplerate)
        peak = float(np.abs(block).max())
        if not np.isfinite(peak):
            raise Unfit("CLIP_NOT_FINITE")
        loudest = max(loudest, peak)
    if frames < file.samplerate:
        raise Unfit("CLIP_TOO_SHORT" if frames else "CLIP_EMPTY", seconds=frames / file.samplerate)
    return frames, loudest


def _block(file: soundfile.SoundFile, frames: int) -> np.ndarray[Any, Any]:
    """The next samples, [S, C]."""
    import soundfile

    try:
        samples: np.ndarray[Any, Any] = file.read(min(frames, _BLOCK_FRAMES), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as problem:
        raise Unfit("CLIP_NOT_AUDIO") from problem
    return samples


def _set_limit(kind: int, value: int) -> None:
    try:
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    except (ValueError, OSError):
        # Not every system can limit everything; the other limits still hold.
        return


if __name__ == "__main__":
    # A thread for each core would take address space before it took work.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
