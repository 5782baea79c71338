"""What the evaluation measures, on composed pieces whose truth is known."""

from __future__ import annotations

import torch
from transformers import MusicgenForConditionalGeneration, T5Tokenizer

from generation.training.composer import compose
from generation.training.evaluation import evaluate, key_fit, sixteenth_heard, tempo_agrees
from generation.training.spectra import si_sdr, spectral_distance
from generation.training.synthesiser import render


def test_distances_know_the_same_from_another() -> None:
    audio = torch.stack([torch.from_numpy(render(compose(seed, 2.0))) for seed in (1, 2)])
    noisy = audio + 0.1 * audio.std() * torch.randn(audio.shape, generator=torch.Generator().manual_seed(0))
    assert (si_sdr(noisy, audio) > 10).all()
    assert (si_sdr(audio.flip(0), audio) < 0).all()
    assert (spectral_distance(audio, audio) == 0).all()
    quieter = spectral_distance(0.9 * audio, audio)
    assert ((quieter > 0.1) & (quieter < 0.95)).all()  # 0.92 dB where anything sounds
    assert (spectral_distance(audio.flip(0), audio) > 5).all()


def test_the_tempo_of_drums_is_heard() -> None:
    pieces = [compose(seed, 8.0, style="rock", arrangement="drums") for seed in range(6)]
    heard = [sixteenth_heard(torch.from_numpy(render(piece))) for piece in pieces]
    assert sum(map(tempo_agrees, heard, [piece.sixteenth for piece in pieces])) >= 5


def test_pieces_fit_their_key_better_than_chance() -> None:
    pieces = [compose(seed, 4.0, arrangement="melody chords") for seed in range(6)]
    fits = [key_fit(torch.from_numpy(render(piece)), piece) for piece in pieces]
    assert min(fits) > 0.75


def test_the_short_evaluation_gives_every_figure(
    model: MusicgenForConditionalGeneration, tokenizer: T5Tokenizer
) -> None:
    figures = evaluate(model.eval(), tokenizer, clips=3, classifier_clips=16, guidance_scales=[3.0])
    codec, ceiling = figures["codec"], figures["composed pieces (ceiling)"]
    assert codec["si_sdr"] < 0  # nothing was trained
    assert ceiling["silent"] == ceiling["clipped"] == 0
    assert ceiling["clips"] == 3
    for name in ("drums", "family", "tempo", "key"):
        assert 0 <= figures["takes, guidance 3"][name] <= 1
