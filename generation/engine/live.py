"""A take heard while it is made: its finished frames become samples chunk by chunk, before the last frame is there.

The codec's layers are the library's own. Its recurrent layer keeps its state between chunks and convolutions see their
neighbours, so the samples are those of the whole take but for rounding. Knows nothing of prompts or steps.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from transformers.models.encodec import modeling_encodec as encodec

from generation.engine.audio import Samples
from generation.engine.checkpoint import LoadedModel

logger = logging.getLogger(__name__)

#: Seconds of audio in the first chunk, and in each after it: the first sound comes early, and a chunk is never so long
#: that the takes beside it wait noticeably for its decoding.
FIRST_SECONDS: Final = 0.5
NEXT_SECONDS: Final = 1.0
#: Loudest sample, as in the file of a finished take.
CEILING: Final = 0.99
#: A chunk that is too loud is turned down over so many seconds, and what follows stays so.
FADE_SECONDS: Final = 0.01

OnAudio = Callable[[int, Path, bool], None]  # number of the chunk, its file, whether it is the last


def can_be_live(model: LoadedModel) -> bool:
    """Whether the model's codec is one that can be decoded in chunks: EnCodec without norms over time."""
    codec = model.network.audio_encoder
    return (
        isinstance(getattr(codec, "decoder", None), encodec.EncodecDecoder)
        and codec.config.norm_type == "weight_norm"
        and codec.config.chunk_length is None
    )


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
        # At the cut edges the convolutions were given padding for frames; the first frames have it in the whole, too.
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
            before = int(layer.kernel_size) - 1  # with its dilation
            reach += before if layer.causal else math.ceil(before / 2)
    return reach


class LiveAudio:
    """Writes a take's chunks as they can be told: 16-bit samples without a header, channels in turn."""

    def __init__(self, model: LoadedModel, prefix: str, on_audio: OnAudio) -> None:
        """Files are named `prefix`, a dash and the chunk's number."""
        self._decoder, self._prefix, self._on_audio = ChunkDecoder(model), prefix, on_audio
        self._hop, self._frame_rate, self._sample_rate = (
            model.samples_per_frame,
            model.frame_rate,
            model.sample_rate,
        )
        self._chunks = 0
        self._gain = 1.0

    def waiting(self, frames: int) -> int:
        """With so many complete frames: how many could be told beyond those that make up a chunk; below 0 for none."""
        seconds = NEXT_SECONDS if self._chunks else FIRST_SECONDS
        wanted = math.ceil(seconds * self._frame_rate)
        return frames - self._decoder.frames_done - self._decoder.held_back - wanted

    def tell(self, codes: Tensor) -> None:
        """Write a chunk of what can be told, given all codes [K, T] so far. Raises OSError, and what torch raises."""
        self._write(self._decoder.further(codes), is_last=False)

    def conclude(self, samples: Samples) -> None:
        """Write the rest as the last chunk, given the whole take [channels, n]. Raises OSError."""
        self._write(samples[:, self._decoder.frames_done * self._hop :], is_last=True)

    def _write(self, samples: Samples, *, is_last: bool) -> None:
        path = Path(f"{self._prefix}-{self._chunks:04d}.pcm")
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_bytes(self._pcm(samples))
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        self._on_audio(self._chunks, path, is_last)
        self._chunks += 1

    def _pcm(self, samples: Samples) -> bytes:
        """Samples in 16 bits. How loud the whole will be nobody knows yet, so the gain only ever goes down, smoothly."""
        loudest = float(np.abs(samples).max(initial=0.0))
        before = self._gain
        if loudest * before > CEILING:
            self._gain = CEILING / loudest
        gains = np.full(samples.shape[1], self._gain, dtype=np.float32)
        fade = min(len(gains), round(FADE_SECONDS * self._sample_rate))
        gains[:fade] = np.linspace(before, self._gain, fade, dtype=np.float32)
        # Only within the fade can anything be left above the ceiling.
        heard = np.clip(samples * gains, -CEILING, CEILING)
        return np.ascontiguousarray(np.rint(heard * 32767).T, dtype="<i2").tobytes()
