"""Ranges and contradictions of a config's sizes, checked before anything is built from it.

The bounds leave room above every model that exists and keep a build short. Plain numbers in, problems out.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from typing import Any, Final

from gated_configs.memory.errors import Problem

#: Field names that are whole numbers of a known range: (pattern, smallest, largest, what it is).
_RANGES: Final = tuple(
    (re.compile(pattern), low, high, noun)
    for pattern, low, high, noun in (
        (
            r"^(num_(hidden_|decoder_|encoder_)?layers|n_layers?|(de|en)coder_layers|num_lstm_layers|"
            r"num_transformer_layers|num_nextn_predict_layers|mtp_num_hidden_layers|first_k_dense_replace|"
            r"num_residual_layers|num_hidden_groups|inner_group_num|num_hash_layers|depths|layer_depths)$",
            0,
            1024,
            "layers",
        ),
        (
            r"^(hidden_size|d_model|n_embd|dim|model_dim|word_embed_proj_dim|embedding_size|embed_dim|"
            r"hidden_dim|projection_dim|hidden_sizes|embed_dims|decoder_hidden_sizes)$",
            1,
            262_144,
            "width",
        ),
        (
            r"^(intermediate_size|ffn_dim|d_ff|n_inner|ffn_hidden_size|(de|en)coder_ffn_dim|moe_intermediate_size|"
            r"shared_expert_intermediate_size|moe_shared_expert_intermediate_size|inner_hidden_size)$",
            1,
            4_194_304,
            "width",
        ),
        (
            r"^(num_attention_heads|num_heads|n_heads?|(de|en)coder_attention_heads|num_decoder_heads|num_encoder_heads)$",
            1,
            4096,
            "heads",
        ),
        (
            r"^(num_key_value_heads|num_kv_heads|n_head_kv|multi_query_group_num|num_global_key_value_heads)$",
            1,
            4096,
            "heads",
        ),
        (
            r"^(head_dim|d_kv|kv_channels|qk_nope_head_dim|qk_rope_head_dim|v_head_dim|mamba_head_dim|global_head_dim|"
            r"linear_key_head_dim|linear_value_head_dim|mamba_d_head)$",
            0,
            16_384,
            "width of a head",
        ),
        (
            r"^(hidden_size_per_layer_input|kv_lora_rank|q_lora_rank|time_step_rank|mamba_dt_rank|state_size|ssm_state_size|mamba_d_state|"
            r"conv_kernel|mamba_d_conv|linear_conv_kernel_dim|conv_L_cache|expand|mamba_expand)$",
            0,
            65_536,
            "size",
        ),
        (
            r"^(num_local_experts|num_experts|n_routed_experts|moe_num_experts|n_shared_experts|num_routed_experts)$",
            0,
            8192,
            "experts",
        ),
        (
            r"^(num_experts_per_tok(en)?|moe_topk|moe_top_k|moe_k|top_k_experts|experts_per_token)$",
            0,
            8192,
            "experts",
        ),
        (
            r"^(vocab_size|padded_vocab_size|n_vocab|type_vocab_size|vocab_size_per_layer_input)$",
            0,
            16_777_216,
            "tokens",
        ),
        (
            r"^(max_position_embeddings|n_positions|n_ctx|max_seq_len|seq_length|max_target_positions|"
            r"max_source_positions|max_sequence_length|context_length)$",
            -1,
            1_000_000_000,
            "positions",
        ),
        (
            r"^(sliding_window|attention_chunk_size|sliding_window_size|window_size)$",
            -1,
            1_000_000_000,
            "tokens",
        ),
        (
            r"^(image_size|patch_size|num_channels|num_mel_bins|encoder_stride|temporal_patch_size)$",
            1,
            65_536,
            "size",
        ),
        (
            r"^(num_codebooks|audio_channels|num_filters|num_quantizers|n_codebooks|num_mamba_heads|mamba_num_heads|"
            r"mamba_n_heads|mamba_n_groups|n_groups|n_group|topk_group)$",
            0,
            65_536,
            "parts",
        ),
        (r"^(codebook_size|codebook_dim|num_labels|chunk_size|block_size)$", 0, 16_777_216, "entries"),
        (
            r"^(kernel_size|last_kernel_size|residual_kernel_size|dilation_growth_rate|compress)$",
            1,
            4096,
            "size",
        ),
        (r"^sampling_rate$", 1, 10_000_000, "samples a second"),
    )
)
#: Parts of a config that describe something else than the model's shape.
_NOT_SHAPE: Final = {
    "quantization_config",
    "rope_scaling",
    "rope_parameters",
    "task_specific_params",
    "id2label",
    "label2id",
    "auto_map",
    "generation_config",
    "text_config_dict",
    "vision_config_dict",
    "transformers.js_config",
    "compression_config",
    "pooling_config",
}
_MAY_BE_TEXT: Final = {"time_step_rank", "mamba_dt_rank"}
#: Above every model that exists, by a factor of ten.
_MOST_PARAMETERS: Final = 10**14
_MOST_LAYERS_LISTED: Final = 2048
#: Sizes that some vision models list for each stage; none has more than a handful.
_STAGES: Final = {"depths", "hidden_sizes", "embed_dims", "num_heads", "decoder_hidden_sizes", "layer_depths"}
_MOST_STAGES: Final = 16

_LAYERS: Final = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers")
_HIDDEN: Final = ("hidden_size", "d_model", "n_embd", "dim")
_HEADS: Final = ("num_attention_heads", "n_head", "num_heads", "n_heads", "decoder_attention_heads")
_KV_HEADS: Final = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
_EXPERTS: Final = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_PER_TOKEN: Final = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts")
_OWN_WIDTH: Final = (
    "head_dim",
    "d_kv",
    "kv_channels",
    "kv_lora_rank",
    "attention_head_dim",
    "qk_nope_head_dim",
)


def range_problems(config: dict[str, Any], where: str = "") -> Iterator[Problem]:
    """Fields of the wrong kind or out of range, in the config and in the configs of its parts."""
    for name, value in config.items():
        path = f"{where}.{name}" if where else name
        if isinstance(value, dict):
            if name not in _NOT_SHAPE:
                yield from range_problems(value, path)
            continue
        if (
            isinstance(value, list)
            and len(value) > _MOST_LAYERS_LISTED
            and name in {"layer_types", "block_configs"}
        ):
            yield Problem(
                "OUT_OF_RANGE",
                f"{path} lists {len(value):,} layers; at most {_MOST_LAYERS_LISTED:,} are computed.",
                path,
            )
            continue
        if name in _STAGES and isinstance(value, list) and len(value) > _MOST_STAGES:
            yield Problem(
                "OUT_OF_RANGE",
                f"{path} lists {len(value):,} stages; at most {_MOST_STAGES} are computed.",
                path,
            )
            continue
        bounds = _range_of(name)
        if bounds is not None:
            yield from _value_problems(name, path, value, *bounds)


@functools.lru_cache(maxsize=4096)
def _range_of(name: str) -> tuple[int, int, str] | None:
    """The range of a field by its name: the smallest, the largest, and what it counts."""
    for pattern, low, high, noun in _RANGES:
        if pattern.match(name):
            return low, high, noun
    return None


def _value_problems(name: str, path: str, value: Any, low: int, high: int, noun: str) -> Iterator[Problem]:
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if item is None or (isinstance(item, str) and name in _MAY_BE_TEXT):
            continue
        if isinstance(item, (list, dict)):
            continue
        if isinstance(item, bool) or not isinstance(item, (int, float)):
            yield Problem("WRONG_TYPE", f"{path} must be a whole number, not {_shown(item)}.", path)
            return
        if isinstance(item, float) and not item.is_integer():
            if math.isfinite(item) and name in {"expand", "mamba_expand", "num_kv_heads"}:
                continue
            yield Problem("WRONG_TYPE", f"{path} must be a whole number, not {item}.", path)
            return
        if not low <= item <= high:
            yield Problem(
                "OUT_OF_RANGE",
                f"{path} is {_shown(item)}; between {low:,} and {high:,} {noun} can be computed.",
                path,
            )
            return


def contradictions(config: dict[str, Any], where: str = "") -> Iterator[Problem]:
    """Sizes that cannot belong to one model."""
    for name, value in config.items():
        if isinstance(value, dict) and name not in _NOT_SHAPE:
            yield from contradictions(value, f"{where}.{name}" if where else name)
    prefix = f"{where}." if where else ""
    hidden, heads = _one(config, _HIDDEN), _one(config, _HEADS)
    kv_heads, layers = _one(config, _KV_HEADS), _one(config, _LAYERS)
    experts, per_token = _one(config, _EXPERTS), _one(config, _PER_TOKEN)
    has_own_width = any(isinstance(config.get(name), int) for name in _OWN_WIDTH)
    if (
        hidden
        and heads
        and not has_own_width
        and hidden[1] % heads[1]
        and "t5" not in str(config.get("model_type"))
    ):
        yield Problem(
            "CONTRADICTION",
            f"{prefix}{hidden[0]} {hidden[1]} cannot be divided among {heads[1]} heads ({heads[0]}), and"
            " no head_dim is given.",
            prefix + heads[0],
        )
    if heads and kv_heads and not (kv_heads[0] == "num_kv_heads" and config.get("multi_query")):
        if kv_heads[1] > heads[1]:
            yield Problem(
                "CONTRADICTION",
                f"{prefix}{kv_heads[0]} {kv_heads[1]} is more than {heads[0]} {heads[1]}.",
                prefix + kv_heads[0],
            )
        elif heads[1] % kv_heads[1]:
            yield Problem(
                "CONTRADICTION",
                f"{prefix}{heads[0]} {heads[1]} cannot be shared among {kv_heads[0]} {kv_heads[1]}.",
                prefix + kv_heads[0],
            )
    if experts and per_token and experts[1] > 0 and per_token[1] > experts[1]:
        yield Problem(
            "CONTRADICTION",
            f"{prefix}{per_token[0]} {per_token[1]} is more than {experts[0]} {experts[1]}.",
            prefix + per_token[0],
        )
    kinds = config.get("layer_types")
    if layers and isinstance(kinds, list) and len(kinds) < layers[1]:
        yield Problem(
            "CONTRADICTION",
            f"{prefix}layer_types lists {len(kinds)} layers and {layers[0]} says {layers[1]}.",
            prefix + "layer_types",
        )
    if hidden and layers:
        factor = max(1, experts[1] if experts else 1)
        width = max(
            [
                hidden[1],
                *(
                    config[name]
                    for name in ("intermediate_size", "moe_intermediate_size", "ffn_dim")
                    if isinstance(config.get(name), int) and not isinstance(config.get(name), bool)
                ),
            ]
        )
        wide = (
            min(width, config["moe_intermediate_size"])
            if factor > 1 and _is_int(config.get("moe_intermediate_size"))
            else width
        )
        if hidden[1] * wide * layers[1] * factor > _MOST_PARAMETERS:
            yield Problem(
                "OUT_OF_RANGE",
                f"{prefix}{hidden[0]}, {layers[0]} and the other sizes together make more than"
                " 100 trillion parameters; no such model exists.",
                prefix + hidden[0],
            )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _one(config: dict[str, Any], names: tuple[str, ...]) -> tuple[str, int] | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return name, value
    return None


def _shown(value: Any) -> str:
    text = "true" if value is True else "false" if value is False else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
