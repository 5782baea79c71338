"""How seconds of music become steps of the decoder, rows of its batch, and tokens in its cache. Plain arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from gated_configs.memory.architecture import Architecture, Music
from gated_configs.memory.request import Request

#: The codec keeps float32 whatever the rest is in, here as in audiocraft: rounding it would be heard.
CODEC_BYTES: Final = 4
#: Tokens of a typical prompt after T5's tokenizer, padding included.
DEFAULT_PROMPT_TOKENS: Final = 32


@dataclass(frozen=True)
class Take:
    """`frames` of the codec, `steps` of the decoder, `rows` of its batch, and tokens `cached` in each row."""

    frames: int
    steps: int
    rows: int
    cached: int
    prompt_tokens: int
    samples: int


def take_of(architecture: Architecture, request: Request) -> Take:
    """The sizes of the takes that a request asks for.

    Frames are ceil(seconds * frame rate); the delay pattern adds one step for each further codebook
    (arXiv:2306.05284, section 2.2), and the first step reads the start token. Guidance runs every sequence a
    second time without its prompt: twice the rows. The melody variant prepends prompt and chroma to its sequence.
    """
    music = architecture.music
    assert music is not None
    seconds = request.duration_seconds if request.duration_seconds is not None else music.trained_seconds
    frames = max(1, math.ceil(seconds * music.frame_rate - 1e-9))
    prompt = request.encoder_tokens or DEFAULT_PROMPT_TOKENS
    # Both channels' codebooks are generated together, each channel's delayed alike (modeling_musicgen).
    steps = frames + music.codebooks // music.channels - 1
    prefix = music.conditioning_frames + prompt if music.conditioning_frames else 0
    return Take(
        frames=frames,
        steps=steps,
        rows=request.batch * (2 if request.guidance else 1),
        cached=steps + prefix,
        prompt_tokens=prompt,
        samples=math.ceil(frames / music.frame_rate * music.sample_rate),
    )


#: oneDNN, which runs convolutions on a CPU, works on blocks of so many channels: fewer are padded up to it.
_CHANNEL_BLOCK: Final = 16


def codec_activation_bytes(music: Music, frames: int) -> int:
    """Bytes at the peak of decoding one take's codes to samples, in float32; both channels are a batch of two.

    The decoder's last stage works at the full sample rate, with the channels of the last upsampling. At the peak,
    in the first convolution of its residual block (modeling_encodec.EncodecResnetBlock), these are alive: the block's
    input as residual, its activated copy, that copy padded, the output, and the library's reordered input and output.
    """
    samples = frames * math.prod(music.codec_strides)
    wide, narrow = music.codec_channels[-1], -(-music.codec_channels[-1] // music.codec_compress)
    channels = 3 * wide + narrow + _in_blocks(wide) + _in_blocks(narrow)
    return music.codec_passes * samples * channels * 4


def _in_blocks(channels: int) -> int:
    return -(-channels // _CHANNEL_BLOCK) * _CHANNEL_BLOCK


@dataclass(frozen=True)
class Mapped:
    """How a checkpoint's file stands in a CPU's memory: bytes of it never read, and read beside a converted copy."""

    unread_bytes: int
    file_bytes: int


def mapped(architecture: Architecture, weight_size: float) -> Mapped:
    """What a runner on a CPU holds of the file of weights, which it maps into memory instead of reading it.

    Weights that keep their format are the file's own pages, or a copy in another order that took their place, and take
    memory once they are read. Pages of those that are converted stay as long as some other weight still is the file's.
    The codec keeps float32 and is copied where the others are converted, so that the file is let go.
    """
    music = architecture.music
    assert music is not None
    stored = 2 if architecture.dtype in {"bf16", "fp16"} else 4
    if stored != weight_size:
        return Mapped(0, 0)
    unread = music.unread_text_elements * stored
    if stored != CODEC_BYTES:
        return Mapped(unread, architecture.parameters.parts.get("codec", 0) * stored)
    return Mapped(unread + music.unread_codec_elements * stored, 0)
