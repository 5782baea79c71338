"""How seconds of music become steps of the decoder, rows of its batch, and tokens in its cache. Plain arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from gated_configs.memory.architecture import Architecture, Music
from gated_configs.memory.request import Request

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


#: Copies of the last stage's signal alive at the peak of decoding. modeling_encodec.EncodecResnetBlock holds the
#: residual, its activated and its padded copy, and the convolution's output and workspace; measured on a CPU with torch
#: 2.13 and the 32 kHz codec: 4.4 for 5 and 10 s of music, 5.1 for 20 s.
_COPIES: Final = 5


def codec_activation_bytes(music: Music, frames: int) -> int:
    """Bytes at the peak of decoding one take's codes to samples, in float32; both channels are a batch of two.

    The decoder's last stage works at the full sample rate, with the channels of the last upsampling, and dwarfs
    the ones before it.
    """
    samples = frames * math.prod(music.codec_strides)
    return music.codec_passes * samples * music.codec_channels[-1] * 4 * _COPIES
