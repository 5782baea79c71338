"""Linear layers whose weights are held in 8 or 4 bits, for CPUs: a step reads a half or a third of bfloat16's bytes.

Activations stay bfloat16 between layers. The products are the engine's compiled kernels', or torch's own where there are
none; each row comes out the same whatever goes with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import torch
from torch import Tensor, nn

from generation.engine.blocks import (
    GROUP,
    LANES,
    Held,
    int4_blocks,
    int8_blocks,
    out_of_int4_blocks,
    out_of_int8_blocks,
)
from generation.engine.kernels import Kernels
from generation.engine.packed import CompiledLinear, HeldLinear, replace_linears

if TYPE_CHECKING:
    from generation.engine.families import Network

QuantisedFormat = Literal["int8", "int4"]
_LEVELS: Final = 15
#: Shares of a group's range that the numbers may span: to cut a few outliers off often costs less than wider steps.
_SPANS: Final = (1.0, 0.9)


class Int8Linear(HeldLinear):
    """Each row of the weight in whole numbers from -127 to 127, times one scale."""

    def hold(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Whole numbers [out, in] and scales [out]."""
        return _whole_rows(weight)

    def dense(self) -> Tensor:
        """The weight [out, in], rounded."""
        numbers, scales = self.held
        return numbers.to(torch.bfloat16) * scales[:, None]

    def product(self, rows: Tensor) -> Tensor:
        """Rows [N, in] times the weight, and the bias, [N, out]."""
        return self.with_bias(torch._weight_int8pack_mm(rows.contiguous(), *self.held))


class Int4Linear(HeldLinear):
    """Groups of a row's weights in whole numbers from 0 to 15, each group with a scale and an offset."""

    def hold(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Packed numbers, and scales with offsets [in / group, out, 2]."""
        numbers, scales, offsets = _nearest(weight.float().view(len(weight), -1, GROUP))
        packed = torch._convert_weight_to_int4pack_for_cpu(numbers.flatten(1).to(torch.int32), 1)
        pairs = torch.stack([scales, offsets], dim=-1).transpose(0, 1)
        return packed, pairs.contiguous().to(torch.bfloat16)

    def dense(self) -> Tensor:
        """The weight [out, in], rounded: what the kernel answers to each unit vector."""
        return torch.cat(
            [
                torch._weight_int4pack_mm_for_cpu(block, self.held[0], GROUP, self.held[1])
                for block in torch.split(torch.eye(self.in_features, dtype=torch.bfloat16), 256)
            ]
        ).T.contiguous()

    def product(self, rows: Tensor) -> Tensor:
        """Rows [N, in] times the weight, and the bias, [N, out]."""
        numbers, pairs = self.held
        return self.with_bias(torch._weight_int4pack_mm_for_cpu(rows.contiguous(), numbers, GROUP, pairs))


class CompiledInt8Linear(CompiledLinear):
    """An `Int8Linear` for the engine's own kernel."""

    form = Held.INT8

    def hold(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Whole numbers and scales, in blocks."""
        return (int8_blocks(*_whole_rows(weight)),)

    def dense(self) -> Tensor:
        """The weight [out, in], rounded."""
        numbers, scales = out_of_int8_blocks(self.held[0], self.in_features)
        return numbers.to(torch.bfloat16) * scales[:, None]


class CompiledInt4Linear(CompiledLinear):
    """An `Int4Linear` for the engine's own kernel."""

    form = Held.INT4

    def hold(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Whole numbers, scales and offsets, in blocks."""
        numbers, scales, offsets = _nearest(weight.float().view(len(weight), -1, GROUP))
        return (int4_blocks(numbers.flatten(1), scales, offsets),)

    def dense(self) -> Tensor:
        """The weight [out, in], rounded."""
        numbers, scales, offsets = out_of_int4_blocks(self.held[0], self.in_features)
        groups = (numbers.float() - 8).view(len(numbers), -1, GROUP)
        return (groups * scales[..., None] + offsets[..., None]).to(torch.bfloat16).flatten(1)


def _whole_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers [out, in] from -127 to 127 and their rows' scales [out]."""
    scales = (weight.float().abs().amax(1) / 127).clamp(min=1e-8).to(torch.bfloat16)
    numbers = (weight.float() / scales.float()[:, None]).round().clamp(-127, 127)
    return numbers.to(torch.int8), scales


def _nearest(groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers, scale and offset of each group [O, G, group]: of those tried the ones with the least squared error.

    A weight is (number - 8) * scale + offset, as the kernel has it; both are rounded to bfloat16 before they count.
    """
    low, high = groups.amin(2), groups.amax(2)
    best: list[Tensor] = []  # error, scale, offset and numbers of each group
    for span in _SPANS:
        half, middle = span * (high - low) / 2, (low + high) / 2
        tried = _rounded(groups, 2 * half / _LEVELS, middle - half)
        for each in (tried, _rounded(groups, *_fitted(groups, tried[3]))):
            if best:
                better = each[0] < best[0]
                picks = (better, better, better, better[..., None])
                best = [torch.where(*pair) for pair in zip(picks, each, best, strict=True)]
            else:
                best = each
    _, scales, offsets, numbers = best
    return numbers, scales, offsets


def _rounded(groups: Tensor, steps: Tensor, lowest: Tensor) -> list[Tensor]:
    """Squared error, scale, offset and numbers of each group, whose numbers stand `steps` apart from `lowest` on."""
    scales = steps.clamp(min=1e-8).to(torch.bfloat16).float()
    numbers = ((groups - lowest[..., None]) / scales[..., None]).round_().clamp_(0, _LEVELS)
    offsets = (lowest + 8 * scales).to(torch.bfloat16).float()
    error = ((numbers - 8) * scales[..., None] + offsets[..., None]).sub_(groups).square_().sum(2)
    return [error, scales, offsets, numbers]


def _fitted(groups: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The line through each group's weights over its numbers with the least squared error: its steps and lowest."""
    middle, mean = numbers.mean(2, keepdim=True), groups.mean(2, keepdim=True)
    aside = numbers - middle
    steps = (aside * (groups - mean)).sum(2) / aside.square().sum(2).clamp(min=1e-8)
    return steps, mean[..., 0] - steps * middle[..., 0]


@torch.no_grad()
def quantise_decoder(network: Network, form: QuantisedFormat, kernels: Kernels | None) -> None:
    """Hold the decoder's layers in that form, and everything else, but for the codec, in bfloat16.

    Of "int4" the first layer is in 8 bits: two fifths of what four bits cost the demo's network they cost it there.

    `network` is in float32, as it is in the file: the numbers are rounded once, and the layers go one by one, so that the
    whole is never in memory. The heads stay as they are, since what they answer is the choice itself, and so does a layer
    whose shape the kernel cannot read.
    """

    layers = network.decoder.model.decoder.layers
    first = set(layers[0].modules())

    def held(plain: nn.Linear) -> nn.Linear:
        if plain.in_features % GROUP or plain.out_features % LANES:
            return plain
        is_eight = form == "int8" or plain in first
        if kernels is None:
            return Int8Linear(plain) if is_eight else Int4Linear(plain)
        return (CompiledInt8Linear if is_eight else CompiledInt4Linear)(plain, kernels)

    replace_linears(layers, held)
    for name, part in network.named_children():
        if name != "audio_encoder":
            _convert(part)


def _convert(part: nn.Module) -> None:
    made: dict[Tensor, nn.Parameter] = {}  # what two modules share they share after it
    for module in part.modules():
        # New tensors: one that was only given other data would still be a view of the file.
        for name, weight in module.named_parameters(recurse=False):
            if weight not in made:
                made[weight] = nn.Parameter(
                    weight.detach().to(torch.bfloat16, copy=True), requires_grad=False
                )
            setattr(module, name, made[weight])
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(torch.bfloat16) if buffer.is_floating_point() else buffer.clone())
