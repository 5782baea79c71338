"""Audio on disk: levels, peaks, the recipe in the metadata, and other formats. Knows files, not rows.

numpy and soundfile are imported inside the functions: pages and commands that touch no audio start without them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

#: Loudest sample that is written. Louder takes are turned down as a whole: nothing is ever clipped.
CEILING: Final = 0.99
#: Parts into which the picture of a take is cut.
PEAK_COUNT: Final = 160


@dataclass(frozen=True)
class AudioFormat:
    """A format people can download."""

    name: str
    media_type: str
    container: str
    subtype: str


FORMATS: Final = {
    "wav": AudioFormat("wav", "audio/wav", "WAV", "PCM_16"),
    "flac": AudioFormat("flac", "audio/flac", "FLAC", "PCM_16"),
    "ogg": AudioFormat("ogg", "audio/ogg", "OGG", "VORBIS"),
    "mp3": AudioFormat("mp3", "audio/mpeg", "MP3", "MPEG_LAYER_III"),
}


class UnknownFormat(ValueError):
    """`str()` is the sentence for people."""

    def __init__(self, name: str) -> None:
        super().__init__(f"'{name[:40]}' is not a format. Choose one of: {', '.join(FORMATS)}.")


def audio_format(name: str) -> AudioFormat:
    """The format of that name, in any case. Raises UnknownFormat."""
    try:
        return FORMATS[name.lower()]
    except KeyError:
        raise UnknownFormat(name) from None


@dataclass(frozen=True)
class WrittenAudio:
    """What stands in a file that was just written."""

    file_bytes: int
    sha256: str
    frames: int
    sample_rate: int
    channels: int
    duration_seconds: float
    peaks: list[int]
    rms_dbfs: float | None


def write_take_file(source: Path, target: Path, recipe: dict[str, Any]) -> WrittenAudio:
    """Turn a runner's float WAV into a 16-bit WAV that carries the recipe. Whole or not there: written aside, then renamed.

    `recipe` gets "gain_db", by how much a take that was too loud was turned down. Raises OSError when the disk refuses.
    """
    import numpy as np
    import soundfile

    samples, sample_rate = soundfile.read(source, dtype="float32", always_2d=True)  # [S, C]
    loudest = float(np.abs(samples).max(initial=0.0))
    gain = CEILING / loudest if loudest > CEILING else 1.0
    recipe["gain_db"] = round(20 * float(np.log10(gain)), 2)
    samples = samples * np.float32(gain)
    with written_aside(target) as partial:
        _write(partial, samples, sample_rate, FORMATS["wav"], recipe)
        content = partial.read_bytes()
    return WrittenAudio(
        file_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        frames=len(samples),
        sample_rate=sample_rate,
        channels=samples.shape[1],
        duration_seconds=len(samples) / sample_rate,
        peaks=peaks_of(samples),
        rms_dbfs=level_of(samples),
    )


def convert(source: Path, target: Path, wanted: AudioFormat, recipe: dict[str, Any]) -> None:
    """Write a take's WAV in another format, recipe included; whole or not at all."""
    import soundfile

    samples, sample_rate = soundfile.read(source, dtype="float32", always_2d=True)
    with written_aside(target) as partial:
        _write(partial, samples, sample_rate, wanted, recipe)


def peaks_of(samples: np.ndarray[Any, Any], count: int = PEAK_COUNT) -> list[int]:
    """Loudest sample of each of up to `count` equal parts of [S, C], as 0 to 100."""
    import numpy as np

    if len(samples) == 0:
        return [0]
    loudness = np.abs(samples).max(axis=1)
    starts = np.unique(np.linspace(0, len(loudness), min(count, len(loudness)), endpoint=False).astype(int))
    return [round(100 * min(1.0, float(peak))) for peak in np.maximum.reduceat(loudness, starts)]


def level_of(samples: np.ndarray[Any, Any]) -> float | None:
    """Root mean square of [S, C] against full scale, in decibels; None for silence."""
    import numpy as np

    mean_square = float(np.square(samples, dtype=np.float64).mean()) if samples.size else 0.0
    return round(10 * float(np.log10(mean_square)), 2) if mean_square > 0 else None


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe inside a file that this studio wrote; empty when it holds none."""
    import soundfile

    with soundfile.SoundFile(path) as file:
        comment = file.copy_metadata().get("comment", "")
    try:
        recipe = json.loads(comment)
    except ValueError:
        return {}
    return recipe if isinstance(recipe, dict) else {}


def _write(
    path: Path,
    samples: np.ndarray[Any, Any],
    sample_rate: int,
    wanted: AudioFormat,
    recipe: dict[str, Any],
) -> None:
    import soundfile

    # In memory first: of a full disk libsndfile says "System error" and no more.
    written = io.BytesIO()
    with soundfile.SoundFile(
        written,
        "w",
        samplerate=sample_rate,
        channels=samples.shape[1],
        format=wanted.container,
        subtype=wanted.subtype,
    ) as file:
        texts = {
            "title": str(recipe.get("prompt", ""))[:200],
            "software": f"MusicGen Studio {recipe.get('studio_version', '')}".strip(),
            "license": str(recipe.get("licence", "")),
            # ASCII JSON survives every container's idea of text.
            "comment": json.dumps(recipe, ensure_ascii=True, sort_keys=True),
        }
        # Text goes in first: the MP3 writer puts its tag at the front of the file.
        for name, text in texts.items():
            if text:  # libsndfile refuses an empty one
                setattr(file, name, text)
        # libsndfile's Vorbis writer overflows its stack on one long write, so hand it over in pieces.
        for start in range(0, len(samples), sample_rate):
            file.write(samples[start : start + sample_rate])
    path.write_bytes(written.getbuffer())


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that takes its name once the block has ended well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        prefix=f".{target.stem}-", suffix=target.suffix + ".part", dir=target.parent
    )
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
