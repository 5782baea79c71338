"""Small configs of many families, and how to run one and weigh what it keeps. Imports torch when it is used."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Dwarf:
    """A config small enough to run, how many tokens to run it over, and how many its encoder reads."""

    config: dict[str, Any]
    tokens: int = 11
    encoder_tokens: int = 0


def _llama(model_type: str, name: str, **changes: Any) -> Dwarf:
    return Dwarf(
        {
            "model_type": model_type,
            "architectures": [name],
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 64,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            **changes,
        }
    )


_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_MLA = {
    "kv_lora_rank": 16,
    "q_lora_rank": None,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
    "n_group": 1,
    "topk_group": 1,
    "head_dim": 4,
}

DWARFS: dict[str, Dwarf] = {
    "llama": _llama("llama", "LlamaForCausalLM"),
    "llama-tied-head-dim": _llama("llama", "LlamaForCausalLM", head_dim=16, tie_word_embeddings=True),
    "mistral-sliding": _llama("mistral", "MistralForCausalLM", sliding_window=6),
    "mixtral": _llama("mixtral", "MixtralForCausalLM", num_local_experts=4, num_experts_per_tok=2),
    "qwen2": _llama("qwen2", "Qwen2ForCausalLM"),
    "qwen3": _llama("qwen3", "Qwen3ForCausalLM", head_dim=16),
    "qwen3-moe": _llama("qwen3_moe", "Qwen3MoeForCausalLM", head_dim=8, **_MOE),
    "qwen3-next": _llama(
        "qwen3_next",
        "Qwen3NextForCausalLM",
        head_dim=8,
        num_hidden_layers=4,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        shared_expert_intermediate_size=16,
        **_MOE,
    ),
    "gemma": _llama("gemma", "GemmaForCausalLM", head_dim=16, num_key_value_heads=1),
    "gemma2": _llama("gemma2", "Gemma2ForCausalLM", head_dim=16, sliding_window=6),
    "gemma3": _llama("gemma3_text", "Gemma3ForCausalLM", head_dim=16, sliding_window=6, num_hidden_layers=7),
    "gpt-oss": _llama(
        "gpt_oss",
        "GptOssForCausalLM",
        head_dim=16,
        sliding_window=6,
        num_local_experts=4,
        num_experts_per_tok=2,
    ),
    "phi3": _llama("phi3", "Phi3ForCausalLM", sliding_window=None),
    "phi": _llama("phi", "PhiForCausalLM"),
    "starcoder2": _llama("starcoder2", "Starcoder2ForCausalLM"),
    "stablelm": _llama("stablelm", "StableLmForCausalLM"),
    "olmo2": _llama("olmo2", "Olmo2ForCausalLM"),
    "cohere": _llama("cohere", "CohereForCausalLM"),
    "glm": _llama("glm", "GlmForCausalLM", head_dim=8),
    "granite": _llama("granite", "GraniteForCausalLM"),
    "smollm3": _llama("smollm3", "SmolLM3ForCausalLM"),
    "deepseek-v2": _llama("deepseek_v2", "DeepseekV2ForCausalLM", **_MLA),
    "deepseek-v3": _llama("deepseek_v3", "DeepseekV3ForCausalLM", **{**_MLA, "q_lora_rank": 8}),
    "glm4-moe": _llama(
        "glm4_moe",
        "Glm4MoeForCausalLM",
        head_dim=8,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
    ),
    "falcon-mqa": _llama("falcon", "FalconForCausalLM", multi_query=True, new_decoder_architecture=False),
    "gpt2": Dwarf(
        {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "vocab_size": 64,
            "n_positions": 64,
        }
    ),
    "gpt-bigcode": Dwarf(
        {
            "model_type": "gpt_bigcode",
            "architectures": ["GPTBigCodeForCausalLM"],
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "vocab_size": 64,
            "n_positions": 64,
            "multi_query": True,
        }
    ),
    "gpt-neox": _llama("gpt_neox", "GPTNeoXForCausalLM"),
    "gptj": Dwarf(
        {
            "model_type": "gptj",
            "architectures": ["GPTJForCausalLM"],
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "rotary_dim": 4,
            "vocab_size": 64,
            "n_positions": 64,
            "tie_word_embeddings": False,
        }
    ),
    "opt": Dwarf(
        {
            "model_type": "opt",
            "architectures": ["OPTForCausalLM"],
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": 64,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 16,
            "pad_token_id": 1,
        }
    ),
    "bloom": Dwarf(
        {
            "model_type": "bloom",
            "architectures": ["BloomForCausalLM"],
            "hidden_size": 32,
            "n_layer": 2,
            "n_head": 4,
            "vocab_size": 64,
        }
    ),
    "mpt": Dwarf(
        {
            "model_type": "mpt",
            "architectures": ["MptForCausalLM"],
            "d_model": 32,
            "n_layers": 2,
            "n_heads": 4,
            "vocab_size": 64,
            "max_seq_len": 64,
        }
    ),
    "mamba": Dwarf(
        {
            "model_type": "mamba",
            "architectures": ["MambaForCausalLM"],
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "state_size": 4,
            "vocab_size": 64,
        }
    ),
    "mamba2": Dwarf(
        {
            "model_type": "mamba2",
            "architectures": ["Mamba2ForCausalLM"],
            "hidden_size": 32,
            "num_heads": 8,
            "head_dim": 8,
            "n_groups": 2,
            "state_size": 4,
            "num_hidden_layers": 2,
            "vocab_size": 64,
            "chunk_size": 8,
        }
    ),
    "jamba": _llama(
        "jamba",
        "JambaForCausalLM",
        num_hidden_layers=4,
        attn_layer_period=4,
        attn_layer_offset=2,
        expert_layer_period=2,
        expert_layer_offset=1,
        num_experts=4,
        num_experts_per_tok=2,
        mamba_d_state=4,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    ),
    "bamba": _llama(
        "bamba",
        "BambaForCausalLM",
        attn_layer_indices=[1],
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_n_groups=2,
        mamba_d_state=4,
        mamba_expand=2,
        mamba_chunk_size=8,
    ),
    "falcon-h1": _llama(
        "falcon_h1",
        "FalconH1ForCausalLM",
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_n_groups=2,
        mamba_d_state=4,
        mamba_d_ssm=64,
        mamba_chunk_size=8,
        head_dim=8,
    ),
    "granite-hybrid": _llama(
        "granitemoehybrid",
        "GraniteMoeHybridForCausalLM",
        layer_types=["mamba", "attention"],
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_n_groups=2,
        mamba_d_state=4,
        mamba_chunk_size=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        shared_intermediate_size=16,
    ),
    "zamba2": _llama(
        "zamba2",
        "Zamba2ForCausalLM",
        num_hidden_layers=4,
        num_key_value_heads=4,
        mamba_ngroups=2,
        n_mamba_heads=8,
        mamba_d_state=4,
        mamba_expand=2,
        chunk_size=8,
        num_mem_blocks=1,
        layers_block_type=["mamba", "mamba", "hybrid", "mamba"],
    ),
    "gemma4": _llama(
        "gemma4_text",
        "Gemma4ForCausalLM",
        head_dim=8,
        global_head_dim=16,
        sliding_window=6,
        num_hidden_layers=4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=64,
        num_kv_shared_layers=2,
    ),
    "modernbert-decoder": _llama("modernbert-decoder", "ModernBertDecoderForCausalLM", local_attention=6),
    "falcon-mamba": Dwarf(
        {
            "model_type": "falcon_mamba",
            "architectures": ["FalconMambaForCausalLM"],
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "state_size": 4,
            "vocab_size": 64,
        }
    ),
    "olmo": _llama("olmo", "OlmoForCausalLM"),
    "olmoe": _llama("olmoe", "OlmoeForCausalLM", num_experts=4, num_experts_per_tok=2),
    "qwen2-moe": _llama("qwen2_moe", "Qwen2MoeForCausalLM", shared_expert_intermediate_size=16, **_MOE),
    "phimoe": _llama("phimoe", "PhimoeForCausalLM", num_local_experts=4, num_experts_per_tok=2),
    "dbrx": Dwarf(
        {
            "model_type": "dbrx",
            "architectures": ["DbrxForCausalLM"],
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "vocab_size": 64,
            "max_seq_len": 64,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
            "ffn_config": {
                "ffn_hidden_size": 48,
                "moe_num_experts": 4,
                "moe_top_k": 2,
                "ffn_act_fn": {"name": "silu"},
            },
        }
    ),
    "nemotron-h": _llama(
        "nemotron_h",
        "NemotronHForCausalLM",
        hybrid_override_pattern="M*-M",
        num_hidden_layers=4,
        head_dim=8,
        mamba_num_heads=8,
        mamba_head_dim=8,
        ssm_state_size=4,
        n_groups=2,
        chunk_size=8,
    ),
    "lfm2": _llama("lfm2", "Lfm2ForCausalLM", layer_types=["conv", "full_attention"]),
    "t5": Dwarf(
        {
            "model_type": "t5",
            "architectures": ["T5ForConditionalGeneration"],
            "d_model": 32,
            "d_ff": 48,
            "d_kv": 8,
            "num_layers": 2,
            "num_decoder_layers": 3,
            "num_heads": 4,
            "vocab_size": 64,
            "decoder_start_token_id": 0,
            "is_encoder_decoder": True,
        },
        encoder_tokens=7,
    ),
    "bart": Dwarf(
        {
            "model_type": "bart",
            "architectures": ["BartForConditionalGeneration"],
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 3,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "vocab_size": 64,
            "max_position_embeddings": 64,
            "is_encoder_decoder": True,
        },
        encoder_tokens=7,
    ),
    "bert": Dwarf(
        {
            "model_type": "bert",
            "architectures": ["BertModel"],
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": 64,
        }
    ),
    "vit": Dwarf(
        {
            "model_type": "vit",
            "architectures": ["ViTModel"],
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
        }
    ),
    "encodec": Dwarf(
        {
            "model_type": "encodec",
            "architectures": ["EncodecModel"],
            "num_filters": 4,
            "hidden_size": 16,
            "codebook_size": 32,
            "codebook_dim": 16,
            "upsampling_ratios": [4, 2],
            "sampling_rate": 800,
            "target_bandwidths": [1.0],
        }
    ),
}


def build(class_name: str, config: dict[str, Any], dtype: str) -> Any:
    """The model with random weights, on the CPU."""
    import torch
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    settings = CONFIG_MAPPING[config["model_type"]].from_dict(copy.deepcopy(config))
    model = getattr(transformers, class_name)(settings)
    # Only parameters: buffers such as rotary tables stay as the class made them.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype))
    for name, buffer in model.named_buffers():
        # Falcon-H1 multiplies activations by this one: it is cast with the model.
        if name.endswith("mup_vector"):
            buffer.data = buffer.data.to(getattr(torch, dtype))
    return model.eval()


def forward(model: Any, dwarf: Dwarf, *, rows: int) -> Any:
    """The cache after a prompt and one step, as generating leaves it."""
    import torch

    torch.manual_seed(1)
    ids = torch.randint(3, 60, (rows, dwarf.tokens))
    options: dict[str, Any] = {}
    if dwarf.encoder_tokens:
        hidden = model.get_encoder()(input_ids=torch.randint(3, 60, (rows, dwarf.encoder_tokens)))
        options["encoder_outputs"] = hidden
    name = "decoder_input_ids" if dwarf.encoder_tokens else "input_ids"
    with torch.no_grad():
        first = model(**{name: ids[:, :-1]}, use_cache=True, **options)
        key = "past_key_values" if "past_key_values" in first else "cache_params"
        again = model(**{name: ids[:, -1:], key: first[key]}, use_cache=True, **options)
    return again[key]


def cache_tensors(cache: Any, model: Any) -> int:
    """Bytes of every tensor a cache holds. A window's slice keeps the tensor it is cut from: that is weighed."""
    parts = (
        [cache.self_attention_cache, cache.cross_attention_cache]
        if hasattr(cache, "cross_attention_cache")
        else [cache]
    )
    total = 0
    for part in parts:
        for layer in part.layers:
            for name in ("keys", "values"):
                total += _bytes(getattr(layer, name, None))
            for name in ("conv_states", "recurrent_states"):
                for tensor in (getattr(layer, name, None) or {}).values():
                    total += _bytes(tensor)
    return total


def _bytes(tensor: Any) -> int:
    if tensor is None:
        return 0
    # `untyped_storage` of a slice is the whole it was cut from, once for each of keys and values.
    return int(
        max(
            tensor.numel() * tensor.element_size(),
            tensor.untyped_storage().nbytes() if tensor.ndim == 4 else 0,
        )
    )
