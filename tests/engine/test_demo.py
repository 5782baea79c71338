"""The demo checkpoint in the repository: its files, and that it plays what it is asked for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, MusicgenForConditionalGeneration, MusicgenProcessor

from generation.engine.audio import decode_codes
from generation.engine.checkpoint import LoadedModel, load_checkpoint
from generation.engine.chunks import decode_take
from generation.engine.random_checkpoint import build_tokenizer, captions
from generation.training.codec_training import encode
from generation.training.composer import compose
from generation.training.evaluation import flatness as spectral_flatness
from generation.training.evaluation import full_prompt, sixteenth_heard, takes, tempo_agrees
from generation.training.language_model_training import captioned_loss
from generation.training.spectra import spectrum
from generation.training.synthesiser import render
from generation.training.tokens import Batch
from tests.engine.conftest import DEMO
from tests.engine.dwarf import build_dwarf
from tests.engine.test_decode import codes_for


def fingerprints(folder: Path) -> dict[str, str]:
    return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return load_checkpoint(str(DEMO), device="cpu")


def test_random_checkpoints_depend_on_their_seed_alone(tmp_path: Path) -> None:
    for name, seed in (("here", 3), ("there", 3), ("other", 4)):
        build_dwarf(tmp_path / name, seed=seed)
    here, there, other = (fingerprints(tmp_path / name) for name in ("here", "there", "other"))
    assert here == there
    assert {name for name, mark in other.items() if mark != here[name]} == {"model.safetensors"}


def test_it_has_the_official_files_and_is_small() -> None:
    files = {each.name: each.stat().st_size for each in DEMO.iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
    } <= files.keys()
    assert sum(files.values()) < 20_000_000
    card = (DEMO / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "What it cannot do" in card


def test_the_library_loads_it() -> None:
    network, found = MusicgenForConditionalGeneration.from_pretrained(DEMO, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    processor = AutoProcessor.from_pretrained(DEMO)
    assert isinstance(processor, MusicgenProcessor)
    assert processor.feature_extractor.sampling_rate == 16_000
    inputs = processor(text=["slow piano", "fast techno with bells"], padding=True, return_tensors="pt")
    assert network.generate(**inputs, max_new_tokens=13).shape == (2, 1, 10 * 320)


def test_it_is_what_its_readers_expect(demo: LoadedModel) -> None:
    assert (demo.sample_rate, demo.frame_rate, demo.samples_per_frame) == (16_000, 50, 320)
    assert (demo.channels, demo.codebooks, demo.pad_token) == (1, 4, 512)


def flatness(samples: np.ndarray) -> float:
    """1 for white noise, near 0 for notes."""
    return float(spectral_flatness(torch.from_numpy(samples).reshape(1, -1)))


def test_it_plays_what_it_is_asked_for_and_no_noise(demo: LoadedModel) -> None:
    """Drums have hits between 2.5 and 5 kHz and little that sounds on; an organ has neither hits nor gaps."""
    highs, gaps = {}, {}
    for prompt in ("rock drum beat", "slow church organ"):
        samples = decode_codes(demo, codes_for(demo, prompt, frames=150, seed=1, top_k=250))
        assert 0.05 < np.abs(samples).max() < 1.4
        assert (np.abs(samples) > 0.999).mean() < 0.001
        assert flatness(samples) < 0.3
        power = spectrum(torch.from_numpy(samples).reshape(1, -1), 1024)[0].abs().square()
        highs[prompt] = float(power[160:320].sum() / power.sum())
        loudness = power.sum(0)
        gaps[prompt] = float(loudness.quantile(0.2) / loudness.mean())
    assert highs["rock drum beat"] > 3 * highs["slow church organ"]
    assert gaps["rock drum beat"] < gaps["slow church organ"]


def test_it_keeps_the_tempo_that_it_is_asked_for() -> None:
    """By chance one in five would."""
    network = MusicgenForConditionalGeneration.from_pretrained(DEMO).eval()
    tokenizer = AutoProcessor.from_pretrained(DEMO).tokenizer
    asked = [(style, sixteenth) for style in ("rock", "house") for sixteenth in (6, 7, 8)]
    prompts = [f"{style} drum beat at {round(750 / sixteenth)} bpm" for style, sixteenth in asked]
    made = takes(network, tokenizer, prompts, seconds=5.0)
    assert (
        sum(tempo_agrees(sixteenth_heard(audio), want[1]) for audio, want in zip(made, asked, strict=True))
        >= 5
    )


def test_its_weights_are_no_ones_random_ones() -> None:
    """What it learnt: a first frame's codes are told by the caption and the frames before far better than by chance."""
    network = MusicgenForConditionalGeneration.from_pretrained(DEMO).eval()
    tokenizer = AutoProcessor.from_pretrained(DEMO).tokenizer
    piece = compose(1_000_000_777, 3.0, style="pop", arrangement="melody chords bass drums")
    with torch.no_grad():
        codes = encode(network.audio_encoder, torch.from_numpy(render(piece))[None])
        batch = Batch(codes, [full_prompt(piece)], torch.tensor([piece.sixteenth]))
        losses = captioned_loss(network, tokenizer, batch, [True])
    assert losses[0] < 2.0  # guessing is ln 512 = 6.2
    assert losses.mean() < 4.0


@pytest.mark.parametrize("channels", [1, 2])
def test_random_weights_are_loud_enough_whatever_their_seed(tmp_path: Path, channels: int) -> None:
    for seed in (1, 2, 3):
        model = load_checkpoint(
            str(build_dwarf(tmp_path / str(seed), channels=channels, seed=seed)), device="cpu"
        )
        codes = torch.randint(32, (model.codebooks, 250), generator=torch.Generator().manual_seed(seed))
        assert 0.3 < np.abs(decode_codes(model, codes)).max() < 0.8


def test_prompt_and_seed_change_what_is_heard(demo: LoadedModel) -> None:
    takes = [
        decode_codes(demo, codes_for(demo, prompt, frames=50, seed=seed, guidance_scale=scale))
        for prompt, seed, scale in (("slow piano", 0, 3.0), ("fast techno", 0, 3.0), ("slow piano", 1, 3.0))
    ]
    assert np.abs(takes[0] - takes[1]).max() > 0.01
    assert np.abs(takes[0] - takes[2]).max() > 0.01


def test_music_that_is_cut_off_does_not_end_in_a_crack(demo: LoadedModel) -> None:
    """Its codec overshoots where its padding begins, at one cut of twelve, the worst by a thousandfold."""
    codes = codes_for(demo, "calm music box lullaby", frames=155, seed=1, top_k=250)
    hop, whole = demo.samples_per_frame, np.abs(decode_take(demo, codes))
    for end in range(95, 155):  # six of them crack without it
        before = whole[:, (end - 5) * hop : end * hop].max()
        last = np.abs(decode_take(demo, codes[:, :end]))[:, -hop:].max()
        assert last < 2 * before + 0.02, end


def test_its_codes_are_not_all_one(demo: LoadedModel) -> None:
    for row in codes_for(demo, frames=100):
        assert len(torch.unique(row)) > 5


def test_a_prompt_has_hardly_more_tokens_than_characters() -> None:
    tokenizer = build_tokenizer(1024)
    for text in [
        "!?,.;" * 50,
        "WORD " * 40,
        "Привет, мир",
        "한국어 음악",
        "🎹🎸",
        "x\n\ny\tz",
        "808 140 bpm",
        "ﷺ",
    ]:
        assert len(tokenizer(text)["input_ids"]) <= len(text) + 2
    assert len(tokenizer("slow piano")["input_ids"]) == 3
    assert tokenizer("")["input_ids"] == [tokenizer.eos_token_id]


def test_captions_are_many_and_all_different() -> None:
    made = list(captions())
    assert len(made) > 1000
    assert len(set(made)) == len(made)
