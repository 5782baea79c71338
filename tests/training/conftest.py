"""A dwarf of the demo's shape: everything the training does, in a fraction of a second."""

from __future__ import annotations

import os

# The machine is shared, and dwarfs are too small to gain from threads. Read by torch when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from transformers import (
    EncodecConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    T5Config,
    T5Tokenizer,
)

from generation.training.captions import describe
from generation.training.checkpoint import new_model, train_tokenizer
from generation.training.composer import compose


@pytest.fixture
def codec_shape() -> EncodecConfig:
    return EncodecConfig(
        sampling_rate=16_000,
        audio_channels=1,
        normalize=False,
        target_bandwidths=[0.8],
        use_causal_conv=False,
        pad_mode="constant",
        num_filters=4,
        upsampling_ratios=[4, 4, 4, 5],
        num_lstm_layers=1,
        hidden_size=16,
        codebook_dim=16,
        codebook_size=16,
    )


@pytest.fixture(scope="session")
def tokenizer() -> T5Tokenizer:
    return train_tokenizer((describe(compose(seed, 1.0), 0) for seed in range(200)), vocabulary=200)


@pytest.fixture
def model(codec_shape: EncodecConfig, tokenizer: T5Tokenizer) -> MusicgenForConditionalGeneration:
    torch.manual_seed(0)
    decoder = MusicgenDecoderConfig(
        vocab_size=16,
        num_codebooks=4,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=64,
        dropout=0.0,
        pad_token_id=16,
        bos_token_id=16,
    )
    text_encoder = T5Config(
        vocab_size=len(tokenizer), d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    return new_model(MusicgenConfig(text_encoder=text_encoder, audio_encoder=codec_shape, decoder=decoder))
