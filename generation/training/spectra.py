"""Distances between audio signals: the codec's training losses and the figures of its evaluation. Audio is [B, samples].

Knows nothing of models."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

SAMPLE_RATE = 16_000


def spectrum(audio: Tensor, size: int) -> Tensor:
    """Complex short-time spectrum, [B, size // 2 + 1, T], hop a quarter of the window."""
    return torch.stft(
        audio, size, size // 4, window=_window(size, audio.device), return_complex=True, pad_mode="constant"
    )


@cache
def _window(size: int, device: torch.device) -> Tensor:
    return torch.hann_window(size, device=device)


@cache
def mel_filters(size: int, bands: int, device: torch.device) -> Tensor:
    """Triangular filters on the mel scale (O'Shaughnessy 1987), [bands, size // 2 + 1]."""
    top = 2595 * torch.log10(torch.tensor(1 + SAMPLE_RATE / 2 / 700))
    edges = 700 * (10 ** (torch.linspace(0, float(top), bands + 2) / 2595) - 1)
    hertz = torch.linspace(0, SAMPLE_RATE / 2, size // 2 + 1)
    rising = (hertz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - hertz) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0).to(device)


def log_mel(audio: Tensor, size: int = 1024, bands: int = 64) -> Tensor:
    """Natural log of mel magnitudes, floored at 1e-2 (about -60 dB under a full-scale tone), [B, bands, T]."""
    return (mel_filters(size, bands, audio.device) @ spectrum(audio, size).abs()).clamp(min=1e-2).log()


def reconstruction_loss(made: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """The codec's losses before weighting. The complex spectrum keeps the pitch: magnitudes alone let phase smear."""
    losses = {"waveform": (made - wanted).abs().mean()}
    # Each clip by its own level, or loud drums would outvote a quiet flute.
    losses["energy"] = ((made - wanted).square().mean(-1) / wanted.square().mean(-1).clamp(min=5e-4)).mean()
    distances = []
    for size in (512, 2048):
        reference = spectrum(wanted, size)
        level = reference.abs().mean((1, 2)).clamp(min=0.02)
        distances.append(((spectrum(made, size) - reference).abs().mean((1, 2)) / level).mean())
    losses["spectrum"] = torch.stack(distances).sum()
    losses["mel"] = torch.stack(
        [
            (log_mel(made, size, bands) - log_mel(wanted, size, bands)).abs().mean()
            for size, bands in ((512, 40), (1024, 64))
        ]
    ).sum()
    return losses


def si_sdr(made: Tensor, wanted: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB, [B] (Le Roux et al. 2019)."""
    made, wanted = made - made.mean(-1, keepdim=True), wanted - wanted.mean(-1, keepdim=True)
    scale = (made * wanted).sum(-1, keepdim=True) / wanted.square().sum(-1, keepdim=True).clamp(min=1e-8)
    target = scale * wanted
    return 10 * torch.log10(target.square().sum(-1) / (made - target).square().sum(-1).clamp(min=1e-8))


def spectral_distance(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference of log-mel spectra in dB over three resolutions, [B]."""
    distances = [
        (log_mel(made, size, bands) - log_mel(wanted, size, bands)).abs().mean((1, 2)) * 8.686
        for size, bands in ((512, 40), (1024, 64), (2048, 80))
    ]
    return torch.stack(distances).mean(0)
