"""A take that goes on from audio: that audio as samples and codes, and its joint with what is made after it.

Knows nothing of prompts or steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import soundfile
import torch
from torch import Tensor

from generation.engine import resampling
from generation.engine.audio import Samples
from generation.engine.checkpoint import LoadedModel
from generation.engine.chunks import encoder_reach
from generation.engine.errors import EngineError
from generation.engine.linear_prediction import gone_on
from generation.engine.protocol import BEGINNING_UNREADABLE

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

    The codec hears what follows in the file, too, or how the sound would go on, not the silence after an end
    (docs/decisions/0019). One of other channels is mixed: to mono by the mean, to stereo by the same on both sides.
    Raises EngineError BEGINNING_UNREADABLE for a file that is none, or is shorter.
    """
    ahead = encoder_reach(model)
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            wanted = round(seconds * rate)
            beyond = math.ceil(ahead * model.samples_per_frame * rate / model.sample_rate)
            beyond += resampling.reach(rate, model.sample_rate)
            read = file.read(wanted + beyond, dtype="float32", always_2d=True).T  # [channels, n]
    except (OSError, RuntimeError) as error:  # soundfile's own errors are RuntimeErrors
        raise _unreadable(str(error)) from error
    if read.shape[1] < wanted:
        raise _unreadable(f"{read.shape[1]} samples instead of {wanted}")
    mixed = _mixed(torch.from_numpy(read.copy()), model.channels)
    mixed = gone_on(mixed, wanted + beyond - mixed.shape[1])
    try:
        heard = resampling.resampled(mixed, rate, model.sample_rate)
    except ValueError as error:
        raise _unreadable(str(error)) from error
    samples = heard[:, : math.ceil(wanted * model.sample_rate / rate)]
    frames = samples.shape[1] // model.samples_per_frame
    frames = frames if most is None else min(frames, most)
    if not frames:
        raise _unreadable("it is shorter than a frame")
    return Beginning(
        samples.numpy(), _encoded(model, heard, end=samples.shape[1], frames=frames, reach=ahead)
    )


def joined(model: LoadedModel, beginning: Beginning, samples: Samples) -> Samples:
    """The beginning and what was made after it, [channels, n]; `samples` begin with the frames of its codes."""
    known = beginning.codes.shape[1] * model.samples_per_frame
    fade = min(round(FADE_SECONDS * model.sample_rate), known)
    weight = np.linspace(0, 1, fade, dtype=np.float32)
    head = beginning.samples.copy()
    head[:, -fade:] = (1 - weight) * head[:, -fade:] + weight * samples[:, known - fade : known]
    return np.concatenate([head, samples[:, known:]], axis=1)


def _encoded(model: LoadedModel, heard: Tensor, *, end: int, frames: int, reach: int) -> Tensor:
    """Codes [K, frames] of the frames before sample `end`; the codec hears so many more on either side, where there are."""
    codec: Any = model.network.audio_encoder
    hop = model.samples_per_frame
    before = min(reach, end // hop - frames)
    part = heard[:, end - (before + frames) * hop : end + reach * hop]
    sides = part[:, None].to(model.device, next(codec.parameters()).dtype)  # [channels, 1, n]
    found: Tensor = codec.encode(sides).audio_codes[0].cpu()  # [channels, K', T]
    codes = found.transpose(0, 1).flatten(0, 1)  # left and right in turn
    if codes.shape[0] != model.codebooks:
        raise _unreadable(f"the codec gives {codes.shape[0]} codebooks instead of {model.codebooks}")
    return codes[:, before : before + frames].long()


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
