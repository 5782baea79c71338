"""Spectrograms as PNG files and audio as WAV files, with the standard library alone. Knows nothing of models."""

from __future__ import annotations

import struct
import wave
import zlib
from pathlib import Path

import torch
from torch import Tensor

from .spectra import SAMPLE_RATE, spectrum

CEILING_HERTZ = 5000
# Dark blue to yellow, light grows evenly (five stops of the viridis idea).
STOPS = torch.tensor(
    [[13, 8, 40], [59, 40, 120], [40, 120, 142], [94, 201, 98], [253, 231, 37]], dtype=torch.float32
)


def write_wav(path: Path, audio: Tensor) -> None:
    """Write [samples] in -1..1 as 16-bit mono."""
    samples = (audio.clamp(-1, 1) * 32767).round().to(torch.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.numpy().tobytes())


def write_spectrogram(path: Path, audio: Tensor, rows: int = 320) -> None:
    """Picture [samples]: 0 Hz at the bottom, CEILING_HERTZ at the top, 60 dB of range, 50 columns a second."""
    magnitudes = spectrum(audio[None], 1280)[0].abs()[: 1280 * CEILING_HERTZ // SAMPLE_RATE]
    level = ((20 * torch.log10(magnitudes + 1e-3) + 20) / 60).clamp(0, 1).flip(0)  # [F, T]
    level = torch.nn.functional.interpolate(level[None, None], size=(rows, level.shape[1]), mode="bilinear")[
        0, 0
    ]
    place = level * (len(STOPS) - 1)
    lower = place.floor().long().clamp(max=len(STOPS) - 2)
    share = (place - lower)[..., None]
    pixels = (STOPS[lower] * (1 - share) + STOPS[lower + 1] * share).round().to(torch.uint8)  # [rows, T, 3]
    lines = b"".join(b"\0" + row.numpy().tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], rows, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
