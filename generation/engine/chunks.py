"""Codes of a take as samples: as a whole, in chunks where that would need much memory, or before the last frame is there.

The codec's layers are the library's own. Its recurrent layer keeps its state between chunks and convolutions see their
neighbours, so the samples are those of the whole take but for rounding. Where music is cut off, a codec may overshoot: it
is told that the last frame went on (docs/decisions/0018). Knows nothing of prompts or steps.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.models.encodec import modeling_encodec as encodec

from generation.engine.audio import Samples, decode_codes
from generation.engine.checkpoint import LoadedModel


def can_be_chunked(model: LoadedModel) -> bool:
    """Whether the model's codec is one that can be decoded in chunks: EnCodec without norms over time."""
    codec = model.network.audio_encoder
    return (
        isinstance(getattr(codec, "decoder", None), encodec.EncodecDecoder)
        and codec.config.norm_type == "weight_norm"
        and codec.config.chunk_length is None
    )


def encoder_reach(model: LoadedModel) -> int:
    """Frames of sound on either side that the codes of a frame depend on; 0 for a codec that cannot be chunked."""
    if not can_be_chunked(model):
        return 0
    layers: Any = model.network.audio_encoder.encoder.layers
    return math.ceil(_reach(layers) / model.samples_per_frame)


class ChunkDecoder:
    """Codes of one take as samples, as far as they can be told. Holds what the next chunk needs of those before it."""

    def __init__(self, model: LoadedModel) -> None:
        self._model, self._codec = model, model.network.audio_encoder
        layers: Any = self._codec.decoder.layers
        recurrent = next(
            index for index, layer in enumerate(layers) if isinstance(layer, encodec.EncodecLSTM)
        )
        self._head, self._lstm, self._tail = (
            layers[:recurrent],
            layers[recurrent].lstm,
            layers[recurrent + 1 :],
        )
        # Frames on either side that a frame depends on, before the recurrent layer and after it.
        self._head_reach, self._tail_reach = _reach(self._head), _reach(self._tail)
        self._state: tuple[Tensor, Tensor] | None = None
        self._remembered = torch.empty(
            0
        )  # [channels, H, frames] after the recurrent layer, from `_first_remembered`
        self._first_remembered = 0
        self._through = 0  # frames that went through the recurrent layer
        self.frames_done = 0

    @property
    def held_back(self) -> int:
        """Frames that must follow a frame before its samples can be told."""
        return self._head_reach + self._tail_reach

    @torch.inference_mode()
    def further(self, codes: Tensor) -> Samples:
        """Samples [channels, n] of the frames that can now be told, given all codes [K, T] so far.

        `frames_done` counts them. Some must be: T is more than `frames_done + held_back`.
        """
        channels, frames = self._model.channels, codes.shape[1]
        first = max(0, self._through - self._head_reach)
        sides = torch.stack([codes[side::channels, first:] for side in range(channels)])  # [channels, K', t]
        hidden = self._codec.quantizer.decode(
            sides.transpose(0, 1).to(self._model.device)
        )  # [channels, D, t]
        hidden = _through(self._head, hidden)
        # At the cut edges the convolutions were given padding for frames; the whole has it at its start, too.
        through = frames - self._head_reach
        hidden = hidden[:, :, self._through - first : through - first].permute(2, 0, 1)
        recurrent, self._state = self._lstm(hidden, self._state)
        hidden = (recurrent + hidden).permute(1, 2, 0)
        self._through = through
        if self.frames_done:
            hidden = torch.cat([self._remembered, hidden], dim=-1)
        samples = _through(self._tail, hidden)[:, 0]  # [channels, frames * samples per frame]
        done, hop = through - self._tail_reach, self._model.samples_per_frame
        begin, end = (each - self._first_remembered for each in (self.frames_done, done))
        keep_from = max(0, done - self._tail_reach)
        self._remembered = hidden[:, :, keep_from - self._first_remembered :].clone()
        self._first_remembered, self.frames_done = keep_from, done
        result: Samples = samples[:, begin * hop : end * hop].float().cpu().numpy()
        return result


@torch.inference_mode()
def decode_take(model: LoadedModel, codes: Tensor, chunk: int | None = None) -> Samples:
    """All codes [K, T] of a take as samples [channels, n]; a codec that cannot be chunked makes of them what it will.

    With `chunk`, in memory for less than about twice so many frames beside the samples; they are the same but for
    rounding.
    """
    if not can_be_chunked(model):
        return decode_codes(model, codes)
    decoder, frames, hop = ChunkDecoder(model), codes.shape[1], model.samples_per_frame
    chunk = chunk or frames
    going_on = torch.cat([codes, codes[:, -1:].expand(-1, decoder.held_back)], dim=1)
    samples = np.empty((model.channels, frames * hop), dtype=np.float32)
    # The last chunk takes what is left with it: none is shorter than the others.
    for end in [*range(chunk, frames - chunk + 1, chunk), frames]:
        first = decoder.frames_done
        samples[:, first * hop : end * hop] = decoder.further(going_on[:, : end + decoder.held_back])
    return samples


def _through(layers: Any, hidden: Tensor) -> Tensor:
    for layer in layers:
        hidden = layer(hidden)
    return hidden


def _reach(layers: Any) -> int:
    """Positions before the layers, on either side, that one position after them depends on."""
    reach = 0
    for layer in reversed(layers):
        if isinstance(layer, encodec.EncodecConvTranspose1d):
            kernel, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
            reach = math.ceil(reach / stride) + math.ceil((kernel - stride) / stride)
        elif isinstance(layer, encodec.EncodecResnetBlock):
            reach += _reach(layer.block)
        elif isinstance(layer, encodec.EncodecConv1d):
            stride = int(layer.stride)
            beyond = int(layer.kernel_size) - stride  # with its dilation
            reach = reach * stride + (beyond if layer.causal else math.ceil(beyond / 2))
    return reach
