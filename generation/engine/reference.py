"""The clip whose melody a take follows: a sound file, as the pitches that a melody model reads.

Knows nothing of prompts or steps.
"""

from __future__ import annotations

from typing import Final

import soundfile
import torch
from torch import Tensor

from generation.engine.checkpoint import LoadedModel
from generation.engine.chroma import chroma_of
from generation.engine.errors import EngineError
from generation.engine.protocol import INVALID_REQUEST, REFERENCE_UNREADABLE
from generation.engine.resampling import resampled

#: Beyond these a file is none that people listen to, and reading it would only take memory.
MOST_CHANNELS: Final = 8
MOST_RATE: Final = 384_000
#: What the library's extractor asks of torchaudio.
_BAND: Final = 0.945


@torch.inference_mode()
def read_reference(model: LoadedModel, path: str, *, beyond_seconds: float) -> Tensor:
    """Pitches [T, bins] of a sound file, as far as one window reads and `beyond_seconds`; what follows is not read.

    Raises EngineError REFERENCE_UNREADABLE for a file that is none or holds no sound, INVALID_REQUEST for a model
    that follows no clip.
    """
    if model.chroma is None:
        message = "This model cannot follow a reference clip. Use a melody model, or leave the clip out."
        raise EngineError(INVALID_REQUEST, message)
    seconds = model.chroma.seconds + beyond_seconds
    try:
        with soundfile.SoundFile(path) as file:
            rate: int = file.samplerate
            if file.channels > MOST_CHANNELS or rate > MOST_RATE:
                raise ValueError(f"{file.channels} channels of {rate} samples a second")
            read = file.read(round(seconds * rate), dtype="float32", always_2d=True)  # [n, channels]
        if not len(read):
            raise ValueError("it holds no samples")
        mono = torch.from_numpy(read).mean(dim=1)[None]
        samples = resampled(mono, rate, model.chroma.sample_rate, band=_BAND)[0]
    # soundfile's own errors are RuntimeErrors, and a name that ends in .raw is a TypeError to it.
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        message = "The reference clip cannot be read as sound. Use another clip, or none."
        raise EngineError(REFERENCE_UNREADABLE, message, f"{type(error).__name__}: {error}") from error
    return chroma_of(samples, model.chroma)
