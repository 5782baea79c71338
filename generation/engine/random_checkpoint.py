"""Builds small MusicGen checkpoints with random weights, in the files and layout of the official ones.

For the demo model and for tests. The same shape and seed give the same files, byte for byte: weights come
from exact arithmetic on uniform random numbers, and the tokenizer is trained on captions made here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import (
    EncodecConfig,
    EncodecFeatureExtractor,
    GenerationConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
)

# fmt: off
MOODS = (
    "slow", "calm", "gentle", "dreamy", "sad", "dark", "tense", "heavy", "bright", "happy", "warm",
    "playful", "epic", "fast", "wild",
)
GENRES = (
    "piano", "ambient", "jazz", "blues", "folk", "rock", "metal", "funk", "soul", "disco", "house",
    "techno", "classical", "lo-fi", "hip-hop", "reggae",
)
INSTRUMENTS = (
    "strings", "acoustic guitar", "electric guitar", "synth pads", "808 drums", "brushed drums",
    "upright bass", "a saxophone", "a trumpet", "a cello", "a flute", "a choir", "bells",
    "an organ", "a marimba", "rain in the background",
)
TEMPI = (
    "60", "72", "80", "90", "100", "112", "120", "128", "140", "174",
)
# fmt: on

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


@dataclass(frozen=True, kw_only=True)
class CheckpointShape:
    """Sizes of the three parts. `codebooks` counts those of one channel."""

    channels: int = 1
    codebooks: int = 4
    codebook_size: int = 512
    sample_rate: int = 16_000
    upsampling: tuple[int, ...] = (8, 5, 4, 2)  # their product is the samples in a frame
    codec_filters: int = 4
    codec_width: int = 32
    width: int = 64
    layers: int = 3
    heads: int = 4
    feed_forward: int = 256
    text_width: int = 48
    text_layers: int = 2
    text_heads: int = 4
    vocabulary: int = 1024


def build_checkpoint(folder: Path, shape: CheckpointShape, *, seed: int) -> None:
    """Write a checkpoint that `MusicgenForConditionalGeneration` and `AutoProcessor` load from `folder`."""
    tokenizer = build_tokenizer(shape.vocabulary)
    config = _config(shape, tokenizer)
    network = MusicgenForConditionalGeneration(config).eval()
    network.generation_config = GenerationConfig(
        bos_token_id=shape.codebook_size,
        decoder_start_token_id=shape.codebook_size,
        pad_token_id=shape.codebook_size,
        do_sample=True,
        guidance_scale=3.0,
        max_length=1500,
    )
    fill_weights(network, torch.Generator().manual_seed(seed))
    network.save_pretrained(folder)
    extractor = EncodecFeatureExtractor(feature_size=shape.channels, sampling_rate=shape.sample_rate)
    extractor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # the library leaves it readable to its maker alone


def _config(shape: CheckpointShape, tokenizer: PreTrainedTokenizerFast) -> MusicgenConfig:
    frame_rate = shape.sample_rate // math.prod(shape.upsampling)
    bits = int(math.log2(shape.codebook_size))
    return MusicgenConfig(
        text_encoder=T5Config(
            vocab_size=len(tokenizer),
            d_model=shape.text_width,
            d_kv=shape.text_width // shape.text_heads,
            d_ff=2 * shape.text_width,
            num_layers=shape.text_layers,
            num_heads=shape.text_heads,
            dropout_rate=0.0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ),
        audio_encoder=EncodecConfig(
            sampling_rate=shape.sample_rate,
            target_bandwidths=[shape.codebooks * frame_rate * bits / 1000],
            upsampling_ratios=list(shape.upsampling),
            num_filters=shape.codec_filters,
            hidden_size=shape.codec_width,
            codebook_dim=shape.codec_width,
            codebook_size=shape.codebook_size,
            num_lstm_layers=1,
            use_causal_conv=False,
        ),
        decoder=MusicgenDecoderConfig(
            vocab_size=shape.codebook_size,
            pad_token_id=shape.codebook_size,
            bos_token_id=shape.codebook_size,
            num_codebooks=shape.codebooks * shape.channels,
            audio_channels=shape.channels,
            hidden_size=shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            ffn_dim=shape.feed_forward,
            dropout=0.0,
        ),
    )


# --- weights ---

# Makes a draw from the random decoder neither flat (every prompt sounds alike) nor certain (every seed does).
_LOGIT_DEVIATION = 2.0
_PEAK = 0.5


@torch.no_grad()
def fill_weights(network: MusicgenForConditionalGeneration, generator: torch.Generator) -> None:
    """Fill all weights so that signals keep their size from layer to layer and audio peaks near one half."""
    for name, weight in network.named_parameters():
        if name.endswith(("layer_norm.weight", "layernorm.weight", "original0")):
            weight.fill_(1.0)  # original0 is the length of a weight-normed filter, original1 its direction
        elif weight.dim() == 1:
            # The projection's bias tells a masked row without a prompt from one that is merely zero.
            weight.copy_(_uniform(weight.shape, 0.0 if "layer_norm" in name else 0.1, generator))
        elif "embed_tokens" in name or name == "text_encoder.shared.weight":
            weight.copy_(_uniform(weight.shape, 1.0, generator))
        else:
            deviation = 1.0 / math.sqrt(math.prod(weight.shape[1:]))
            if "lm_heads" in name:
                deviation *= _LOGIT_DEVIATION
            elif name.endswith("SelfAttention.q.weight"):
                deviation /= math.sqrt(network.config.text_encoder.d_kv)  # T5 does not scale its scores
            weight.copy_(_uniform(weight.shape, deviation, generator))
    codec = network.audio_encoder
    for depth, quantizer in enumerate(codec.quantizer.layers):
        # Zero codebooks, which the library starts from, would decode every token to the same audio.
        quantizer.codebook.embed.copy_(_uniform(quantizer.codebook.embed.shape, 2.0**-depth, generator))
        quantizer.codebook.embed_avg.copy_(quantizer.codebook.embed)
        quantizer.codebook.cluster_size.fill_(1.0)
    size = codec.config.codebook_size
    codes = torch.randint(size, (1, 1, len(codec.quantizer.layers), 250), generator=generator)
    peak = float(codec.decode(codes, audio_scales=[None]).audio_values.abs().max())
    last = codec.decoder.layers[-1].conv
    # Two digits, so that another machine's rounding of the peak leads to the same file.
    factor = float(f"{_PEAK / peak:.2g}")
    last.parametrizations.weight.original0.mul_(factor)
    last.bias.mul_(factor)


def _uniform(shape: torch.Size, deviation: float, generator: torch.Generator) -> Tensor:
    """Uniform numbers of mean 0; unlike normal ones the same on every machine."""
    return (torch.rand(shape, generator=generator) * 2.0 - 1.0) * (math.sqrt(3.0) * deviation)


# --- words ---


def captions() -> Iterator[str]:
    """Captions such as people write as prompts, every combination of a few words and forms."""
    for mood, genre, instrument in itertools.product(MOODS, GENRES, INSTRUMENTS):
        yield f"{mood} {genre} with {instrument}"
    for mood, genre, tempo in itertools.product(MOODS, GENRES, TEMPI):
        yield f"{mood} {genre} at {tempo} bpm"
    for mood, other in itertools.permutations(MOODS, 2):
        yield f"a {mood}, {other} melody over a steady beat, instrumental, high quality recording"


def build_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `vocabulary` pieces that spells any English and ends every prompt with `</s>`.

    Byte-pair encoding, since training the unigram model that T5 uses gives another vocabulary each time.
    Characters it does not know become one `<unk>` a run, so that a prompt never has more tokens than
    characters, but for `</s>`.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Metaspace(prepend_scheme="first"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    printable = [chr(code) for code in range(0x21, 0x7F) if not chr(code).isupper()]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, UNKNOWN],
        initial_alphabet=printable,
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions(), trainer)
    end = (END, tokenizer.token_to_id(END))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[end])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=512,
    )
