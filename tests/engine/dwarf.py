"""Dwarf checkpoints: real MusicGen models of a few thousand weights, mono and stereo, for any test."""

from pathlib import Path

from generation.engine.random_checkpoint import CheckpointShape, build_checkpoint

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


def build_dwarf(folder: Path, *, channels: int = 1, seed: int = 0) -> Path:
    """Write a dwarf checkpoint with 1 or 2 channels into `folder`, and answer the folder."""
    build_checkpoint(folder, MONO if channels == 1 else STEREO, seed=seed)
    return folder
