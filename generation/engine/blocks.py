"""Weights in the order in which the compiled kernels read them: compiled_kernels/weights.h says how they lie.

Of 16 outputs each number stands beside those of the others.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import torch
from torch import Tensor

#: Outputs in a block.
LANES: Final = 16
#: Weights that share one scale and one offset in 4 bits.
GROUP: Final = 32


class Held(IntEnum):
    """How a weight is held; the kernels have the same numbers."""

    PAIRS = 0
    INT8 = 1
    INT4 = 2


def can_be_pairs(weight: Tensor) -> bool:
    """Whether the kernels can be given that weight [out, in] in bfloat16."""
    out, width = weight.shape
    is_there = weight.device.type == "cpu" and weight.dtype == torch.bfloat16
    return is_there and out % LANES == 0 and width % 4 == 0


def pairs(weight: Tensor) -> Tensor:
    """A weight [out, in] in bfloat16, in blocks."""
    out, width = weight.shape
    return weight.view(out // LANES, LANES, width // 2, 2).transpose(1, 2).contiguous().view(out, width)


def out_of_pairs(blocks: Tensor) -> Tensor:
    """What `pairs` was given."""
    out, width = blocks.shape
    return blocks.view(out // LANES, width // 2, LANES, 2).transpose(1, 2).reshape(out, width)


def int8_blocks(numbers: Tensor, scales: Tensor) -> Tensor:
    """Whole numbers [out, in] from -128 to 127 and their rows' scales [out] in bfloat16, as bytes [out / 16, ...]."""
    out, width = numbers.shape
    larger = (numbers.to(torch.int16) + 128).to(torch.uint8)
    fours = larger.view(out // LANES, LANES, width // 4, 4).transpose(1, 2)
    times = scales.to(torch.bfloat16).view(out // LANES, LANES)
    parts = (fours.flatten(1), _bytes(times), torch.zeros_like(_bytes(times)))
    return torch.cat(parts, dim=1).contiguous()


def out_of_int8_blocks(blocks: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """What `int8_blocks` was given, for so many inputs."""
    larger, times, _ = torch.split(blocks, [LANES * width, 2 * LANES, 2 * LANES], dim=1)
    fours = larger.view(-1, width // 4, LANES, 4).transpose(1, 2)
    numbers = (fours.reshape(-1, width).to(torch.int16) - 128).to(torch.int8)
    return numbers, times.contiguous().view(torch.bfloat16).flatten()


def int4_blocks(numbers: Tensor, scales: Tensor, offsets: Tensor) -> Tensor:
    """Whole numbers [out, in] from 0 to 15, scales and offsets [out, in / 32] in bfloat16, as bytes [out / 16, ...]."""
    out, width = numbers.shape
    groups = width // GROUP
    lower, upper = numbers.to(torch.uint8).view(out // LANES, LANES, groups, GROUP // 8, 2, 4).unbind(4)
    packed = (lower | upper << 4).permute(0, 2, 3, 1, 4)  # [.., groups, 4, lanes, 4]
    pair = torch.stack([scales, offsets], dim=-1).to(torch.bfloat16)  # [out, groups, 2]
    pair = pair.view(out // LANES, LANES, groups, 2).permute(0, 2, 3, 1)  # [.., groups, 2, lanes]
    return torch.cat([_bytes(pair.flatten(2)), packed.flatten(2)], dim=2).flatten(1).contiguous()


def out_of_int4_blocks(blocks: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """What `int4_blocks` was given, for so many inputs."""
    groups = width // GROUP
    pair, packed = torch.split(blocks.view(len(blocks), groups, -1), [4 * LANES, GROUP * LANES // 2], dim=2)
    pair = pair.contiguous().view(torch.bfloat16).view(-1, groups, 2, LANES).permute(2, 0, 3, 1)
    scales, offsets = pair.reshape(2, -1, groups).unbind()
    fours = packed.view(-1, groups, GROUP // 8, LANES, 4).permute(0, 3, 1, 2, 4)
    return torch.stack([fours & 15, fours >> 4], dim=4).reshape(-1, width), scales, offsets


def _bytes(numbers: Tensor) -> Tensor:
    return numbers.contiguous().view(torch.uint8)
