"""The demo checkpoint's shape and files: configuration, tokenizer, export in the official MusicGen layout.

Knows nothing of how the weights were trained."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import Unigram
from tokenizers.trainers import UnigramTrainer
from transformers import (
    EncodecFeatureExtractor,
    GenerationConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    MusicgenProcessor,
    T5Config,
    T5Tokenizer,
)

from .codec_training import codec_config
from .composer import FRAMES_PER_SECOND

CODEBOOKS, CODES = 4, 512
LONGEST_SECONDS = 20


def model_config(vocabulary: int) -> MusicgenConfig:
    """MusicGen at a fiftieth of the small model's size: about 9 million parameters with text encoder and codec."""
    decoder = MusicgenDecoderConfig(
        vocab_size=CODES,
        num_codebooks=CODEBOOKS,
        hidden_size=256,
        num_hidden_layers=6,
        num_attention_heads=8,
        ffn_dim=640,
        dropout=0.0,
        pad_token_id=CODES,
        bos_token_id=CODES,
    )
    text_encoder = T5Config(
        vocab_size=vocabulary,
        d_model=128,
        d_kv=32,
        d_ff=384,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return MusicgenConfig(text_encoder=text_encoder, audio_encoder=codec_config(), decoder=decoder)


def new_model(config: MusicgenConfig) -> MusicgenForConditionalGeneration:
    """An untrained model with the generation defaults that its checkpoint will carry."""
    model = MusicgenForConditionalGeneration(config)
    pad_token = config.decoder.pad_token_id
    model.generation_config = GenerationConfig(
        do_sample=True,
        guidance_scale=3.0,
        max_length=FRAMES_PER_SECOND * LONGEST_SECONDS + config.decoder.num_codebooks,
        temperature=1.0,
        top_k=250,
        bos_token_id=pad_token,
        pad_token_id=pad_token,
        decoder_start_token_id=pad_token,
    )
    return model


def train_tokenizer(captions: Iterable[str], vocabulary: int = 900) -> T5Tokenizer:
    """A T5 tokenizer whose pieces come from `captions`; printable ASCII is covered, so any word can be spelt."""
    tokenizer = Tokenizer(Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.normalizer = normalizers.Lowercase()
    unknown = "<unk>"
    trainer = UnigramTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "</s>", unknown],
        unk_token=unknown,
        initial_alphabet=[chr(code) for code in range(33, 127)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    pieces = [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]
    return T5Tokenizer(
        vocab=pieces, extra_ids=0, model_max_length=128, _spm_precompiled_charsmap=lowercase_charsmap()
    )


def lowercase_charsmap() -> bytes:
    """A to Z onto a to z as a sentencepiece character map: the one normaliser that a saved T5 tokenizer keeps.

    Size of a double-array trie in bytes, the trie (darts-clone units), then the replacements, each ended by a zero byte.
    """
    units, replacements = [0] * 768, bytearray(128)
    units[0] = 256 << 10  # the root's children stand at 256 ^ byte
    for letter in range(ord("A"), ord("Z") + 1):
        units[256 ^ letter] = letter | 1 << 8 | (256 ^ 512) << 10  # a leaf follows, at 512 + letter
        units[512 + letter] = len(replacements)
        replacements += bytes([letter + 32, 0])
    return struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + bytes(replacements)


@torch.no_grad()
def play_as_at(model: MusicgenForConditionalGeneration, temperature: float) -> None:
    """Scale the heads so that sampling at 1 becomes what sampling at `temperature` was.

    The same to the last digit with guidance, which adds logits up. The studio's default is 1 for every model, as it
    should be for the large ones; one as small as this is surer of the likely codes than of the unlikely ones.
    """
    for head in model.decoder.lm_heads:
        head.weight /= temperature


def export(model: MusicgenForConditionalGeneration, tokenizer: T5Tokenizer, folder: Path) -> None:
    """Write the checkpoint to `folder`, stored in float16: a complete new folder takes the old one's place, its README kept."""
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(new, ignore_errors=True)
    model.to(torch.float16).save_pretrained(new)
    # Halves are for the file alone: the library's loader shall compute in float32 unless told otherwise.
    config = json.loads((new / "config.json").read_text(encoding="utf-8")) | {"dtype": "float32"}
    (new / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    sample_rate = model.config.audio_encoder.sampling_rate
    extractor = EncodecFeatureExtractor(feature_size=1, sampling_rate=sample_rate)
    MusicgenProcessor(extractor, tokenizer).save_pretrained(new)
    # The library (5.23) writes processor_config.json alone; the official checkpoints have this file.
    extractor.save_pretrained(new)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        if (folder / "README.md").exists():
            shutil.copy(folder / "README.md", new / "README.md")
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
