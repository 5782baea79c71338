"""Turns codes into samples with the checkpoint's codec, and samples into a WAV file.

The only module that writes a file of a take. Knows nothing of prompts or steps.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from generation.engine.checkpoint import LoadedModel
from generation.engine.errors import EngineError
from generation.engine.protocol import ENGINE_ERROR

Samples = npt.NDArray[np.float32]  # [channels, samples]


@torch.inference_mode()
def decode_codes(model: LoadedModel, codes: Tensor) -> Samples:
    """Codes [K, T] as float32 samples [channels, T * samples_per_frame].

    Stereo codes hold left and right codebooks in turn; the codec is mono and decodes each side as a row of a
    batch.
    """
    sides = torch.stack(
        [codes[side :: model.channels] for side in range(model.channels)]
    )  # [channels, K', T]
    audio = model.network.audio_encoder.decode(sides[None].to(model.device), audio_scales=[None]).audio_values
    length = codes.shape[1] * model.samples_per_frame
    if audio.shape[-1] < length:
        raise EngineError(
            ENGINE_ERROR,
            "The codec of this model gave back less audio than it was given frames. Use another checkpoint.",
            f"{audio.shape[-1]} samples for {codes.shape[1]} frames of {model.samples_per_frame}",
        )
    samples: Samples = audio[:, 0, :length].float().cpu().numpy()
    return samples


def write_wav(path: Path, samples: Samples, sample_rate: int) -> None:
    """Write samples [channels, n] as float32 WAV, under a temporary name first: `path` is never half a file.

    Written by hand because libsndfile puts the time of day into float files, and the same take must be the
    same bytes. Source: RIFF/WAVE with WAVE_FORMAT_IEEE_FLOAT and the `fact` chunk it calls for.
    """
    channels, length = samples.shape
    body = np.ascontiguousarray(samples.T, dtype="<f4").tobytes()
    block = 4 * channels
    chunks = [
        b"fmt " + struct.pack("<IHHIIHHH", 18, 3, channels, sample_rate, sample_rate * block, block, 32, 0),
        b"fact" + struct.pack("<II", 4, length),
        b"data" + struct.pack("<I", len(body)),
    ]
    header = b"WAVE" + b"".join(chunks)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(b"RIFF" + struct.pack("<I", len(header) + len(body)) + header)
            file.write(body)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
