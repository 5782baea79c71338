"""Samples at one rate as samples at another."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad

#: Zero crossings of the filter on either side, and the part of the narrower band that it leaves alone.
_CROSSINGS: Final = 24
_BAND: Final = 0.95
#: Two rates that share little need a long filter for each of many phases: so many numbers in all.
MOST_NUMBERS: Final = 1 << 25


def reach(rate: int, wanted: int, *, band: float = _BAND) -> int:
    """Samples at the old rate on either side that one at the new rate depends on."""
    return 0 if rate == wanted else math.ceil(_CROSSINGS * rate / (band * min(rate, wanted)))


def resampled(samples: Tensor, rate: int, wanted: int, *, band: float = _BAND) -> Tensor:
    """Samples [channels, n] at another rate, by a windowed sinc; as they are at the same one.

    Raises ValueError for two rates between which it would take a filter of more than MOST_NUMBERS. Source: `resample`
    of torchaudio, whose `rolloff` is `band`.
    """
    if rate == wanted:
        return samples
    shared = math.gcd(rate, wanted)
    old, new = rate // shared, wanted // shared
    cutoff = band * min(old, new)
    width = reach(rate, wanted, band=band)
    if new * (2 * width + old) > MOST_NUMBERS:
        raise ValueError(f"{rate} samples a second cannot become {wanted}")
    times = torch.arange(-width, width + old)[None] / old - torch.arange(new)[:, None] / new
    times = (times * cutoff).clamp(-_CROSSINGS, _CROSSINGS)
    kernel = torch.sinc(times) * torch.cos(times * math.pi / _CROSSINGS / 2) ** 2 * cutoff / old  # [new, t]
    found = conv1d(
        pad(samples[:, None], (width, width + old)), kernel[:, None], stride=old
    )  # [channels, new, m]
    return found.transpose(1, 2).flatten(1)[:, : math.ceil(new * samples.shape[1] / old)].contiguous()
