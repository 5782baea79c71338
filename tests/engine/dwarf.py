"""Dwarf checkpoints: real MusicGen models of a few thousand weights, mono and stereo, for any test."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyForConditionalGeneration,
)

from generation.engine.random_checkpoint import CheckpointShape, build_checkpoint, fill_weights

#: 50 frames a second of 16 samples, 4 codebooks of 32.
MONO = CheckpointShape(
    codebook_size=32,
    sample_rate=800,
    upsampling=(4, 4),
    codec_filters=2,
    codec_width=8,
    width=16,
    layers=2,
    heads=2,
    feed_forward=32,
    text_width=12,
    text_layers=1,
    text_heads=2,
    vocabulary=200,
)
#: Two channels of 4 codebooks each. The text encoder is as wide as the decoder: there is no projection.
STEREO = CheckpointShape(**{**vars(MONO), "channels": 2, "width": 12})


def build_dwarf(
    folder: Path, *, channels: int = 1, seed: int = 0, shape: CheckpointShape | None = None
) -> Path:
    """Write a dwarf checkpoint with 1 or 2 channels into `folder`, and answer the folder."""
    build_checkpoint(folder, shape or (MONO if channels == 1 else STEREO), seed=seed)
    return folder


#: How the melody dwarfs read a clip: 12.5 pitches a second, of which 20 stand before a take.
CHROMA: dict[str, Any] = {"n_fft": 128, "hop_length": 64, "chunk_length": 2, "num_chroma": 12}
CHROMA_LENGTH = 20


def build_melody_dwarf(
    folder: Path, *, channels: int = 1, seed: int = 0, shape: CheckpointShape | None = None
) -> Path:
    """Write a dwarf of a melody checkpoint into `folder`. The stereo one has no projection of pitches either."""
    build_dwarf(folder, channels=channels, shape=shape)
    text = MusicgenForConditionalGeneration.from_pretrained(folder).config
    config = MusicgenMelodyConfig(
        text_encoder=text.text_encoder.to_dict(),
        audio_encoder=text.audio_encoder.to_dict(),
        decoder={**text.decoder.to_dict(), "model_type": "musicgen_melody_decoder"},
        num_chroma=CHROMA["num_chroma"],
        chroma_length=CHROMA_LENGTH,
    )
    network = MusicgenMelodyForConditionalGeneration(config).eval()
    network.generation_config = GenerationConfig.from_pretrained(folder)
    fill_weights(network, torch.Generator().manual_seed(seed))
    network.save_pretrained(folder)
    extractor = {"feature_extractor_type": "MusicgenMelodyFeatureExtractor", "sampling_rate": 800, **CHROMA}
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor))
    return folder
