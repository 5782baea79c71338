"""A take that goes on from audio: that audio as samples and codes, and its joint with what is made after it.

Knows nothing of prompts or steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import soundfile
import torch
from torch import Tensor

from generation.engine.audio import Samples
from generation.engine.checkpoint import LoadedModel
from generation.engine.errors import EngineError
from generation.engine.protocol import BEGINNING_UNREADABLE
from generation.engine.resampling import resampled

#: Seconds over which the audio gives way to the same moment as the codec plays it, so that nothing clicks.
FADE_SECONDS: Final = 0.02


@dataclass(frozen=True)
class Beginning:
    """What a take goes on from: all of it as samples [channels, n], and its last frames as codes [K, T]."""

    samples: Samples
    codes: Tensor


@torch.inference_mode()
def read_beginning(model: LoadedModel, path: str, *, seconds: float, most: int | None) -> Beginning:
    """The first `seconds` of a sound file at the model's rate, and at most so many of its last frames as codes.

    One of other channels is mixed: to mono by the mean, to stereo by the same on both sides. Raises EngineError
    BEGINNING_UNREADABLE for a file that is none, or is shorter.
    """
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            wanted = round(seconds * rate)
            read = file.read(wanted, dtype="float32", always_2d=True).T  # [channels, n]
    except (OSError, RuntimeError) as error:  # soundfile's own errors are RuntimeErrors
        raise _unreadable(str(error)) from error
    if read.shape[1] != wanted:
        raise _unreadable(f"{read.shape[1]} samples instead of {wanted}")
    mixed = _mixed(torch.from_numpy(read.copy()), model.channels)
    try:
        samples = resampled(mixed, rate, model.sample_rate)
    except ValueError as error:
        raise _unreadable(str(error)) from error
    frames = samples.shape[1] // model.samples_per_frame
    frames = frames if most is None else min(frames, most)
    if not frames:
        raise _unreadable("it is shorter than a frame")
    return Beginning(samples.numpy(), _encoded(model, samples[:, -frames * model.samples_per_frame :]))


def joined(model: LoadedModel, beginning: Beginning, samples: Samples) -> Samples:
    """The beginning and what was made after it, [channels, n]; `samples` begin with the frames of its codes."""
    known = beginning.codes.shape[1] * model.samples_per_frame
    fade = min(round(FADE_SECONDS * model.sample_rate), known)
    weight = np.linspace(0, 1, fade, dtype=np.float32)
    head = beginning.samples.copy()
    head[:, -fade:] = (1 - weight) * head[:, -fade:] + weight * samples[:, known - fade : known]
    return np.concatenate([head, samples[:, known:]], axis=1)


def _encoded(model: LoadedModel, samples: Tensor) -> Tensor:
    codec: Any = model.network.audio_encoder
    sides = samples[:, None].to(model.device, next(codec.parameters()).dtype)  # [channels, 1, n]
    found: Tensor = codec.encode(sides).audio_codes[0].cpu()  # [channels, K', T]
    codes = found.transpose(0, 1).flatten(0, 1)  # left and right in turn
    if codes.shape[0] != model.codebooks:
        raise _unreadable(f"the codec gives {codes.shape[0]} codebooks instead of {model.codebooks}")
    return codes.long()


def _mixed(samples: Tensor, channels: int) -> Tensor:
    """Samples [c, n] as [channels, n], which is one or two."""
    if samples.shape[0] == channels:
        return samples
    return samples.mean(dim=0, keepdim=True).expand(channels, -1).contiguous()


def _unreadable(detail: str) -> EngineError:
    return EngineError(
        BEGINNING_UNREADABLE,
        "The audio that this take goes on from cannot be read as this model needs it. Go on from another one.",
        detail,
    )
