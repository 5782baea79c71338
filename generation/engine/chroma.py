"""The melody of a clip as melody models read it: at each moment, the pitch class that sounds loudest.

Plain arithmetic on samples; reads no sound file. Source: `MusicgenMelodyFeatureExtractor` of transformers, which needs
torchaudio for its spectrogram.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot, pad

#: Beyond any model's: a config that says more would only take memory.
_MOST: Final = {"bins": 128, "frames": 4096, "window": 1 << 17, "hop": 1 << 17, "seconds": 600}
#: Pitches that are looked for together: what that takes is bounded, however long the clip is.
_TOGETHER: Final = 128


@dataclass(frozen=True, kw_only=True)
class ChromaShape:
    """How a melody model wants a melody. Those of official models are the library's defaults."""

    sample_rate: int
    bins: int = 12  # pitch classes
    frames: int = 235  # pitches before a take; a shorter melody is said again
    window: int = 16384  # samples that one pitch is found in
    hop: int = 4096  # samples from one pitch to the next
    seconds: int = 30  # of a clip that are heard, in a take of one window


def read_chroma_shape(folder: Path, config: Any, sample_rate: int) -> ChromaShape:
    """What the checkpoint in `folder` says, `config` being its MusicgenMelodyConfig.

    Raises ValueError for what is no number, or one beyond all bounds.
    """
    found = {"bins": config.num_chroma, "frames": config.chroma_length}
    path = folder / "preprocessor_config.json"
    if path.is_file():
        content = json.loads(path.read_bytes())
        for ours, theirs in (("window", "n_fft"), ("hop", "hop_length"), ("seconds", "chunk_length")):
            if isinstance(content, dict) and theirs in content:
                found[ours] = content[theirs]
    for name, value in found.items():
        if type(value) is not int or not 1 <= value <= _MOST[name]:
            raise ValueError(f"{name} of its melodies is {value!r}")
    return ChromaShape(sample_rate=sample_rate, **found)


@torch.inference_mode()
def chroma_of(samples: Tensor, shape: ChromaShape) -> Tensor:
    """Pitches [T, bins] of samples [n], one 1 in each row. Fewer samples than a window get silence on both sides."""
    from transformers.audio_utils import chroma_filter_bank  # takes a while, and only clips need it

    if (lacking := shape.window - len(samples)) > 0:
        samples = pad(samples, (lacking // 2, lacking - lacking // 2))
    around = pad(samples[None], (shape.window // 2, shape.window // 2), mode="reflect")[0]
    heard = around.unfold(0, shape.window, shape.hop)  # [T, window], of memory that they share
    filters = torch.from_numpy(
        chroma_filter_bank(
            sampling_rate=shape.sample_rate, num_frequency_bins=shape.window, tuning=0, num_chroma=shape.bins
        )
    ).float()  # [bins, frequencies]
    weights = torch.hann_window(shape.window)
    found = []
    for part in torch.split(heard, _TOGETHER):
        spectrum = torch.fft.rfft(part * weights) / weights.square().sum().sqrt()
        loudness = spectrum.abs().square() @ filters.T  # [t, bins]
        found.append(normalize(loudness, p=float("inf"), dim=1, eps=1e-6).argmax(dim=1))
    return one_hot(torch.cat(found), shape.bins).float()
