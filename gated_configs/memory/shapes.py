"""The sizes that activations and clocks depend on, read from a built model's config. Runs in the child process."""

from __future__ import annotations

import math
from typing import Any, Final, cast

from gated_configs.memory.architecture import Music, Shapes
from gated_configs.memory.blueprint import Blueprint, setting

_CONTEXT: Final = (
    "max_position_embeddings",
    "n_positions",
    "max_target_positions",
    "max_seq_len",
    "seq_length",
    "n_ctx",
    "context_length",
    "max_sequence_length",
)
_INTERMEDIATE: Final = (
    "intermediate_size",
    "ffn_dim",
    "d_ff",
    "n_inner",
    "ffn_hidden_size",
    "decoder_ffn_dim",
    "hidden_dim",
)


def _whole(config: Any, *names: str) -> int:
    """The first of several fields that is a whole number above zero, or 0."""
    for name in names:
        value = setting(config, name)
        if isinstance(value, (list, tuple)) and value and all(isinstance(item, int) for item in value):
            value = max(value)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0


def shapes_of(blueprint: Blueprint, model_type: str, experts_per_token: int) -> Shapes:
    """Sizes of the stack that dominates activations, and of an encoder beside it."""
    config = blueprint.text_config
    hidden = _whole(config, "hidden_size", "d_model", "n_embd", "dim", "embed_dim")
    heads = _whole(config, "num_attention_heads", "n_head", "num_heads", "decoder_attention_heads")
    head_width = _whole(config, "head_dim", "d_kv") or (hidden // heads if heads and hidden else 0)
    intermediate = _whole(config, *_INTERMEDIATE) or 4 * hidden
    moe = _whole(config, "moe_intermediate_size", "expert_ffn_hidden_size")
    if experts_per_token:
        intermediate = max(intermediate, experts_per_token * (moe or intermediate))
    encoder = _encoder(blueprint.config) if getattr(blueprint.config, "is_encoder_decoder", False) else None
    return Shapes(
        layers=_whole(config, "num_hidden_layers", "n_layer", "num_layers", "decoder_layers"),
        hidden=hidden,
        intermediate=intermediate,
        attention_width=heads * head_width,
        vocabulary=_whole(config, "vocab_size") if model_type not in {"audio-codec", "vocoder"} else 0,
        heads=heads,
        head_width=head_width,
        experts_per_token=max(1, experts_per_token),
        max_context=_whole(config, *_CONTEXT),
        default_tokens=_picture_tokens(blueprint.config),
        encoder_layers=encoder["layers"] if encoder else 0,
        encoder_hidden=encoder["hidden"] if encoder else 0,
        encoder_intermediate=encoder["intermediate"] if encoder else 0,
        encoder_tokens=encoder["tokens"] if encoder else 0,
    )


def _encoder(config: Any) -> dict[str, int]:
    part = getattr(config, "text_encoder", None) or getattr(config, "encoder", None) or config
    hidden = _whole(part, "d_model", "hidden_size")
    return {
        "layers": _whole(part, "encoder_layers", "num_layers", "num_hidden_layers"),
        "hidden": hidden,
        "intermediate": _whole(part, "encoder_ffn_dim", "d_ff", "intermediate_size") or 4 * hidden,
        # Whisper always reads 30 s: a fixed number of positions.
        "tokens": _whole(part, "max_source_positions")
        if hasattr(part, "num_mel_bins")
        else _picture_tokens(part),
    }


def _picture_tokens(config: Any) -> int:
    """Tokens of one picture for a model that cuts pictures into patches, else 0."""
    image, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    if isinstance(image, (list, tuple)) and image:
        image = image[0]
    if isinstance(patch, (list, tuple)) and patch:
        patch = patch[0]
    if isinstance(image, int) and isinstance(patch, int) and 0 < patch <= image:
        return (image // patch) ** 2 + 1
    return 0


def music_of(blueprint: Blueprint) -> Music | None:
    """The clock and codec of MusicGen, or None for every other family."""
    if blueprint.family not in {"musicgen", "musicgen_melody"}:
        return None
    config, model = blueprint.config, cast("Any", blueprint.model)
    codec, decoder = config.audio_encoder, config.decoder
    strides = tuple(int(ratio) for ratio in codec.upsampling_ratios)
    filters = int(codec.num_filters)
    # From the latent to the samples: channels halve at each upsampling (modeling_encodec.EncodecDecoder).
    channels = tuple(filters * 2 ** (len(strides) - step) for step in range(len(strides) + 1))
    prefix = int(getattr(config, "chroma_length", 0) or 0)
    return Music(
        frame_rate=math.ceil(codec.sampling_rate / math.prod(strides)),
        sample_rate=int(codec.sampling_rate),
        codebooks=int(decoder.num_codebooks),
        channels=int(decoder.audio_channels),
        # arXiv:2306.05284, section 3.2: trained on 30 s excerpts.
        trained_seconds=30.0,
        conditioning_frames=prefix,
        codec_channels=channels,
        codec_strides=strides,
        codec_passes=int(decoder.audio_channels),
        codec_compress=max(1, int(codec.compress)),
        unread_codec_elements=_elements(model.audio_encoder.encoder),
        unread_text_elements=_elements(model.text_encoder.get_input_embeddings()),
        hidden=int(decoder.hidden_size),
    )


def _elements(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
