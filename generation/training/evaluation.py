"""Measures a checkpoint on prompts and seeds outside the training: codec fidelity, and whether takes follow their prompts.

The composed pieces themselves give the ceiling, other pieces' prompts chance. Knows nothing of how it was trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import MusicgenForConditionalGeneration, T5Tokenizer

from .codec_training import UNSEEN_SEEDS, decode, encode
from .composer import FRAMES_PER_SECOND, SCALES, TONICS, Piece, compose
from .spectra import log_mel, si_sdr, spectral_distance, spectrum
from .synthesiser import SAMPLE_RATE, render

FAMILIES = {
    "keys": ("piano", "electric piano"),
    "guitar": ("acoustic guitar", "electric guitar"),
    "strings": ("strings",),
    "flute": ("flute",),
    "organ": ("organ",),
    "pad": ("pad",),
    "synth": ("synth lead",),
    "bells": ("bells", "music box"),
    "drums": ("drums",),
}
CLIP_SECONDS = 8.0
#: A flatness that no composed piece comes near, drums alone included.
NOISY = 0.3


def families_of(piece: Piece) -> Tensor:
    """Which families play, [F] of 0 and 1."""
    return torch.tensor(
        [float(any(name in members for name in piece.roles.values())) for members in FAMILIES.values()]
    )


def through_codec(model: MusicgenForConditionalGeneration, audio: Tensor) -> Tensor:
    """Audio [B, samples] encoded and decoded again."""
    codec = model.audio_encoder
    return decode(codec, encode(codec, audio))[:, : audio.shape[-1]]


def texture(audio: Tensor) -> Tensor:
    """What the classifier hears: mean, spread and movement of each mel band, [B, 192]."""
    mel = log_mel(audio)
    return torch.cat([mel.mean(-1), mel.std(-1), mel.diff(dim=-1).abs().mean(-1)], dim=-1)


class FamilyClassifier:
    """A two-layer network over `texture`, trained on composed clips that went through the codec."""

    def __init__(self, model: MusicgenForConditionalGeneration, clips: int = 320, steps: int = 500) -> None:
        torch.manual_seed(0)
        features: list[Tensor] = []
        labels: list[Tensor] = []
        for start in range(0, clips, 16):
            pieces = [compose(UNSEEN_SEEDS * 2 + start + n, CLIP_SECONDS) for n in range(16)]
            audio = torch.stack([torch.from_numpy(render(piece)) for piece in pieces])
            with torch.no_grad():
                features.append(texture(through_codec(model, audio)))
            labels.extend(families_of(piece) for piece in pieces)
        inputs, wanted = torch.cat(features), torch.stack(labels)
        self.mean, self.spread = inputs.mean(0), inputs.std(0) + 1e-3
        self.network = nn.Sequential(
            nn.Linear(inputs.shape[1], 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, len(FAMILIES))
        )
        optimiser = torch.optim.AdamW(self.network.parameters(), 3e-3, weight_decay=0.05)
        for _ in range(steps):
            rows = torch.randint(len(inputs), (128,))
            loss = binary_cross_entropy_with_logits(
                self.network((inputs[rows] - self.mean) / self.spread), wanted[rows]
            )
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
        self.network.eval()

    @torch.no_grad()
    def __call__(self, audio: Tensor) -> Tensor:
        """Logits per family, [B, F]."""
        logits: Tensor = self.network((texture(audio) - self.mean) / self.spread)
        return logits


def sixteenth_heard(audio: Tensor) -> float:
    """The most likely sixteenth of one clip [samples], in frames of 20 ms, from the periodicity of its onsets."""
    flux = log_mel(audio[None], 1024, 64)[0].diff(dim=-1).clamp(min=0).sum(0)  # a column every 16 ms
    flux = flux - flux.mean()
    size = len(flux)
    power = torch.fft.irfft(torch.fft.rfft(flux, 2 * size).abs() ** 2)[:size]
    power = power / torch.arange(size, 0, -1)

    def strength(frames: int) -> float:
        lags = [round(multiple * frames * 20 / 16) for multiple in (2, 4, 8, 16)]
        return sum(float(power[max(0, lag - 1) : lag + 2].max()) for lag in lags if lag + 2 < size)

    return float(max(range(5, 13), key=strength))


def tempo_agrees(heard: float, wanted: float) -> bool:
    """Within 8%, counting half and double."""
    return any(abs(heard * factor / wanted - 1) <= 0.08 for factor in (0.5, 1.0, 2.0))


def key_fit(audio: Tensor, piece: Piece) -> float:
    """Share of the tonal energy between 110 and 1760 Hz that lies on notes of the piece's scale; 7/12 = 0.58 is chance."""
    magnitudes = spectrum(audio[None], 4096)[0].abs().square().mean(-1)
    hertz = torch.arange(len(magnitudes)) * SAMPLE_RATE / 4096
    heard = (hertz > 110) & (hertz < 1760)
    pitches = (69 + 12 * torch.log2(hertz[heard] / 440)).round().long() % 12
    scale = torch.tensor([(TONICS[piece.tonic] + degree) % 12 for degree in SCALES[piece.mode]])
    energy = magnitudes[heard]
    return float(energy[torch.isin(pitches, scale)].sum() / energy.sum().clamp(min=1e-9))


@torch.no_grad()
def takes(
    model: MusicgenForConditionalGeneration,
    tokenizer: T5Tokenizer,
    prompts: Sequence[str],
    *,
    seconds: float = CLIP_SECONDS,
    guidance_scale: float = 3.0,
    seed: int = 0,
    rows: int = 16,
) -> Tensor:
    """Generate one take per prompt with the library's `generate`, [B, samples]."""
    torch.manual_seed(seed)
    made = []
    for start in range(0, len(prompts), rows):
        text = tokenizer(list(prompts[start : start + rows]), return_tensors="pt", padding=True)
        tokens = round(seconds * FRAMES_PER_SECOND) + model.config.decoder.num_codebooks - 1
        made.append(
            model.generate(
                **text,
                do_sample=True,
                guidance_scale=guidance_scale,
                max_new_tokens=tokens,
                temperature=1.0,
                top_k=250,
            )[:, 0]
        )
    return torch.cat(made).float()


def flatness(audio: Tensor) -> Tensor:
    """Geometric over arithmetic mean of the power spectrum between 60 Hz and 5 kHz, [B]: 1 for white noise."""
    power = spectrum(audio, 1024).abs().square()[:, 4:320].mean(-1) + 1e-6
    return power.log().mean(-1).exp() / power.mean(-1)


def agreement(audio: Tensor, pieces: Sequence[Piece], classifier: FamilyClassifier) -> dict[str, float]:
    """How well clips [B, samples] fit the pieces that their prompts describe; shares of 1."""
    logits, drums = classifier(audio), list(FAMILIES).index("drums")
    solo = [(row, families_of(piece)) for row, piece in enumerate(pieces)]
    tonal = [(row, labels) for row, labels in solo if labels[:drums].sum() >= 1]
    rms = audio.square().mean(-1).sqrt()
    return {
        "drums": sum(bool(logits[row, drums] > 0) == piece.has_drums for row, piece in enumerate(pieces))
        / len(pieces),
        "family": sum(bool(labels[int(logits[row, :drums].argmax())]) for row, labels in tonal)
        / max(1, len(tonal)),
        "tempo": sum(
            tempo_agrees(sixteenth_heard(audio[row]), piece.sixteenth) for row, piece in enumerate(pieces)
        )
        / len(pieces),
        "key": sum(key_fit(audio[row], pieces[row]) for row, _ in tonal) / max(1, len(tonal)),
        "silent": float((rms < 0.005).float().mean()),
        "clipped": float((audio.abs() > 0.999).float().mean(-1).gt(0.001).float().mean()),
        "noisy": float((flatness(audio) > NOISY).float().mean()),
        "clips": float(len(pieces)),
    }


def full_prompt(piece: Piece) -> str:
    """A caption that names instruments, tempo and key, so that each can be checked."""
    instruments = list(dict.fromkeys(piece.roles.values()))
    what = "drum beat" if instruments == ["drums"] else " and ".join(instruments)
    key = "" if instruments == ["drums"] else f" in {piece.tonic} {piece.mode}"
    return f"{piece.style} {what} at {round(piece.beats_per_minute)} bpm{key}"


def evaluate(
    model: MusicgenForConditionalGeneration,
    tokenizer: T5Tokenizer,
    *,
    clips: int = 32,
    classifier_clips: int = 320,
    guidance_scales: Sequence[float] = (1.0, 2.0, 3.0),
) -> dict[str, dict[str, float]]:
    """Every figure of the model card: the codec's, the ceiling and chance, then agreement per guidance scale."""
    pieces = [compose(UNSEEN_SEEDS + 5000 + n, CLIP_SECONDS) for n in range(clips)]
    composed = torch.stack([torch.from_numpy(render(piece)) for piece in pieces])
    with torch.no_grad():
        rebuilt = torch.cat(
            [through_codec(model, composed[start : start + 16]) for start in range(0, clips, 16)]
        )
    classifier = FamilyClassifier(model, classifier_clips)
    low = torch.nn.functional.interpolate(composed[:, None, ::16], size=composed.shape[1], mode="linear")[
        :, 0
    ]
    figures = {
        "codec": {
            "si_sdr": float(si_sdr(rebuilt, composed).median()),
            "distance": float(spectral_distance(rebuilt, composed).median()),
        },
        "baseline: every 16th sample": {
            "si_sdr": float(si_sdr(low, composed).median()),
            "distance": float(spectral_distance(low, composed).median()),
        },
        "composed pieces (ceiling)": agreement(composed, pieces, classifier),
        "composed pieces through the codec": agreement(rebuilt, pieces, classifier),
    }
    shuffled = pieces[1:] + pieces[:1]
    figures["composed pieces, prompts shuffled (chance)"] = agreement(composed, shuffled, classifier)
    for scale in guidance_scales:
        made = takes(model, tokenizer, [full_prompt(piece) for piece in pieces], guidance_scale=scale)
        figures[f"takes, guidance {scale:g}"] = agreement(made, pieces, classifier)
    return figures
