"""The delay pattern: codebook k of a frame is predicted k steps after its first codebook.

Plain index arithmetic on token ids; knows no model. Layout of ids, for 4 codebooks and 3 frames (P = pad):

    step        0 1 2 3 4 5 6
    codebook 0  P a a a P P P
    codebook 1  P P b b b P P
    codebook 2  P P P c c c P
    codebook 3  P P P P d d d

Stereo models hold left and right codebooks in turn (L0 R0 L1 R1 ...), and both of a pair have the same delay.
Source: MusicGen (Copet et al. 2023), section 2.2, and `build_delay_pattern_mask` of transformers, which
leaves the delay out for takes shorter than its codebooks; we keep it, so that every length decodes in the
same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DelayPattern:
    """Where each codebook of each frame stands in the sequence of steps."""

    codebooks: int
    channels: int  # 1 or 2

    @property
    def shifts(self) -> list[int]:
        """Steps by which each codebook lags behind the first."""
        return [codebook // self.channels for codebook in range(self.codebooks)]

    @property
    def longest_shift(self) -> int:
        """Steps between the first and the last codebook of a frame."""
        return self.shifts[-1]

    def steps_for(self, frames: int) -> int:
        """New tokens needed for `frames` complete frames."""
        return frames + self.longest_shift

    def complete_frames(self, steps: int) -> int:
        """Frames that have all their codebooks after `steps` new tokens."""
        return max(0, steps - self.longest_shift)

    def open_positions(self, frames: int, *, known: int = 0) -> Tensor:
        """Bool [K, 1 + steps]: true where the model's prediction is used, false where a pad token stands.

        Nor is it used for the first `known` frames, which are there already.
        """
        positions = torch.arange(1 + self.steps_for(frames))  # [L]
        first = 1 + torch.tensor(self.shifts)[:, None]  # [K, 1]
        return (positions >= first + known) & (positions < first + frames)

    def apply(self, codes: Tensor, pad_token: int) -> Tensor:
        """Codes [K, T] as delayed ids [K, 1 + steps]."""
        ids = torch.full((self.codebooks, 1 + self.steps_for(codes.shape[1])), pad_token, dtype=codes.dtype)
        ids[self.open_positions(codes.shape[1])] = codes.flatten()
        return ids

    def undo(self, ids: Tensor, frames: int) -> Tensor:
        """The first `frames` frames of delayed ids [K, L] as codes [K, T]."""
        return torch.stack(
            [row[1 + shift : 1 + shift + frames] for row, shift in zip(ids, self.shifts, strict=True)]
        )
