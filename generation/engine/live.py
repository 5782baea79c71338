"""A take heard while it is made: its finished frames become samples chunk by chunk, before the last frame is there.

It is turned down where it would clip, as far as anybody can know before the end. Knows nothing of prompts or steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from torch import Tensor

from generation.engine.audio import Samples
from generation.engine.beginning import Beginning, joined
from generation.engine.checkpoint import LoadedModel
from generation.engine.chunks import ChunkDecoder
from generation.engine.protocol import LIVE_LEAD_SECONDS

#: Seconds of audio in the first chunk, and in each after it: the first sound comes early, and a chunk is never so long
#: that the takes beside it wait noticeably for its decoding.
FIRST_SECONDS: Final = 0.5
NEXT_SECONDS: Final = 1.0
#: Loudest sample, as in the file of a finished take.
CEILING: Final = 0.99
#: A chunk that is too loud is turned down over so many seconds, and what follows stays so.
FADE_SECONDS: Final = 0.01

OnAudio = Callable[[int, Path, bool], None]  # number of the chunk, its file, whether it is the last


class LiveAudio:
    """Writes a take's chunks as they can be told: 16-bit samples without a header, channels in turn."""

    def __init__(
        self, model: LoadedModel, prefix: str, on_audio: OnAudio, beginning: Beginning | None = None
    ) -> None:
        """Files are named `prefix`, a dash and the chunk's number.

        A take that goes on from `beginning` is heard from LIVE_LEAD_SECONDS before what is new, where there are so many.
        """
        self._model = model
        self._decoder, self._prefix, self._on_audio = ChunkDecoder(model), prefix, on_audio
        self._hop, self._frame_rate, self._sample_rate = (
            model.samples_per_frame,
            model.frame_rate,
            model.sample_rate,
        )
        known, before = 0, 0
        if beginning is not None:
            known, before = beginning.codes.shape[1], beginning.samples.shape[1]
        #: Frames of the beginning that are heard, and those that are not: as frames of its codes, and as samples.
        self._lead = min(known, math.ceil(LIVE_LEAD_SECONDS * model.frame_rate))
        self._left_out, self._samples_left_out = known - self._lead, before - self._lead * self._hop
        self._beginning: Beginning | None = None
        if beginning is not None:
            self._beginning = Beginning(
                beginning.samples[:, self._samples_left_out :], beginning.codes[:, self._left_out :]
            )
        self._chunks = 0
        self._gain = 1.0

    def waiting(self, frames: int) -> int:
        """With so many complete frames: how many could be told beyond those that make up a chunk; below 0 for none."""
        seconds = NEXT_SECONDS if self._chunks else FIRST_SECONDS
        wanted = math.ceil(seconds * self._frame_rate) + (0 if self._chunks else self._lead)
        return frames - self._left_out - self._decoder.frames_done - self._decoder.held_back - wanted

    def tell(self, codes: Tensor) -> None:
        """Write a chunk of what can be told, given all codes [K, T] so far. Raises OSError, and what torch raises."""
        samples = self._decoder.further(codes[:, self._left_out :])
        if self._beginning is not None and not self._chunks:
            samples = joined(self._model, self._beginning, samples)
        self._write(samples, is_last=False)

    def conclude(self, samples: Samples) -> None:
        """Write the rest as the last chunk, given the whole take [channels, n]. Raises OSError."""
        told = self._samples_left_out + self._decoder.frames_done * self._hop
        self._write(samples[:, told:], is_last=True)

    def _write(self, samples: Samples, *, is_last: bool) -> None:
        path = Path(f"{self._prefix}-{self._chunks:04d}.pcm")
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_bytes(self._pcm(samples))
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        self._on_audio(self._chunks, path, is_last)
        self._chunks += 1

    def _pcm(self, samples: Samples) -> bytes:
        """Samples in 16 bits. How loud the whole will be nobody knows yet, so the gain only ever goes down, smoothly."""
        loudest = float(np.abs(samples).max(initial=0.0))
        before = self._gain
        if loudest * before > CEILING:
            self._gain = CEILING / loudest
        gains = np.full(samples.shape[1], self._gain, dtype=np.float32)
        fade = min(len(gains), round(FADE_SECONDS * self._sample_rate))
        gains[:fade] = np.linspace(before, self._gain, fade, dtype=np.float32)
        # Only within the fade can anything be left above the ceiling.
        heard = np.clip(samples * gains, -CEILING, CEILING)
        return np.ascontiguousarray(np.rint(heard * 32767).T, dtype="<i2").tobytes()
