"""Families published only as code in their repositories, mapped to a class of transformers of the same shape.

Each mapping says where the shape comes from. Configs in, configs out; nothing is imported or run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from gated_configs.memory.errors import UnsupportedArchitecture


@dataclass(frozen=True)
class Mapping:
    """A config rewritten for a family that transformers has, and in words why that has the same parameters.

    `stored_extra` counts numbers that the family's own code stores beside its weights.
    """

    family: str
    config: dict[str, Any]
    reason: str
    is_remote_code: bool = True
    stored_extra: int = 0


def mapping_of(config: dict[str, Any]) -> Mapping | None:
    """How to compute a config of a remote-code family, or None where transformers knows the family itself.

    Raises UnsupportedArchitecture where the family is known and this variant of it is not.
    """
    map_family = _FAMILIES.get(str(config.get("model_type")))
    return map_family(config) if map_family is not None else None


def _first(config: dict[str, Any], *names: str, default: Any = None) -> Any:
    """The first of several fields that is present and not null (nor a boolean)."""
    for name in names:
        value = config.get(name)
        if value is not None and not isinstance(value, bool):
            return value
    return default


def _need(config: dict[str, Any], *names: str) -> Any:
    """The same, or a refusal that names the field."""
    value = _first(config, *names)
    if value is None:
        raise UnsupportedArchitecture(
            f"A config of the family {config.get('model_type')!r} without {names[0]} cannot be computed."
        )
    return value


def _renamed(config: dict[str, Any], family: str, class_name: str, **changes: Any) -> dict[str, Any]:
    return {
        **{key: value for key, value in config.items() if key not in {"auto_map", "architectures"}},
        "model_type": family,
        "architectures": [class_name],
        **changes,
    }


def _llama_shape(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A Llama config of the same sizes, read from the names that its relatives use."""
    heads = _need(config, "num_attention_heads", "n_head", "num_heads")
    shape = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": _need(config, "hidden_size", "n_embd", "d_model"),
        "intermediate_size": _need(config, "intermediate_size", "ffn_hidden_size", "n_inner"),
        "num_hidden_layers": _need(config, "num_hidden_layers", "num_layers", "n_layer"),
        "num_attention_heads": heads,
        "num_key_value_heads": _first(config, "num_key_value_heads", default=heads),
        "vocab_size": _need(config, "vocab_size"),
        "max_position_embeddings": _first(config, "max_position_embeddings", "seq_length", default=2048),
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        "attention_bias": False,
        "torch_dtype": config.get("torch_dtype"),
    }
    head_dim = _first(config, "head_dim")
    if head_dim is not None:
        shape["head_dim"] = head_dim
    return {**shape, **changes}


def _chatglm(config: dict[str, Any]) -> Mapping:
    """ChatGLM2, ChatGLM3 and GLM-4 (`modeling_chatglm.py`): transformers' Glm with the same sizes.

    The real sizes stand in `padded_vocab_size`, `ffn_hidden_size`, `kv_channels` and
    `multi_query_group_num`; fields of Llama's names in the same file are leftovers and are ignored.
    """
    if "padded_vocab_size" not in config:
        raise UnsupportedArchitecture(
            "This is a config of the first ChatGLM (no padded_vocab_size), whose code is only in its repository"
            " and has no counterpart here; ChatGLM2, ChatGLM3 and GLM-4 can be computed."
        )
    if config.get("add_bias_linear"):
        raise UnsupportedArchitecture("chatglm with add_bias_linear has no counterpart that is known here.")
    if "vision_config" in config:
        raise UnsupportedArchitecture(
            "GLM-4V's picture tower is published only as code in its repository; its config cannot be computed."
        )
    heads = _need(config, "num_attention_heads")
    head_dim = _first(config, "kv_channels", default=128)
    groups = config["multi_query_group_num"] if config.get("multi_query_attention") else heads
    glm = {
        "model_type": "glm",
        "architectures": ["GlmForCausalLM"],
        "hidden_size": _need(config, "hidden_size"),
        "intermediate_size": _need(config, "ffn_hidden_size"),
        "num_hidden_layers": _need(config, "num_layers", "num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": head_dim,
        "attention_bias": bool(config.get("add_qkv_bias", False)),
        "vocab_size": config["padded_vocab_size"],
        "max_position_embeddings": _first(config, "seq_length", default=8192),
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        "torch_dtype": config.get("torch_dtype"),
        # The class's own padding token lies beyond smaller vocabularies.
        "pad_token_id": None,
    }
    return Mapping(
        "chatglm",
        glm,
        "ChatGLM has the shape of transformers' Glm: fused gate, grouped keys and values",
        # The published files also hold the rotary table of half a head's half.
        stored_extra=head_dim // 4,
    )


def _deepseek(config: dict[str, Any]) -> Mapping:
    """DeepSeek-MoE 16B (`modeling_deepseek.py`): ordinary attention, leading dense layers, shared experts.

    transformers' Glm4Moe without query-key norms has the same tensors; its correction bias is a buffer.
    """
    if _first(config, "moe_layer_freq", default=1) != 1:
        raise UnsupportedArchitecture("deepseek with experts in only some layers is not known here.")
    if _first(config, "n_routed_experts") is None:
        return Mapping("deepseek", _llama_shape(config), "DeepSeek without experts has the shape of Llama")
    heads = _need(config, "num_attention_heads")
    hidden = _need(config, "hidden_size")
    glm = _renamed(
        config,
        "glm4_moe",
        "Glm4MoeForCausalLM",
        head_dim=_first(config, "head_dim", default=hidden // heads),
        num_key_value_heads=_first(config, "num_key_value_heads", default=heads),
        attention_bias=bool(config.get("attention_bias", False)),
        use_qk_norm=False,
        n_group=1,
        topk_group=1,
        partial_rotary_factor=1.0,
        rope_scaling=None,
        num_nextn_predict_layers=0,
        first_k_dense_replace=_first(config, "first_k_dense_replace", default=0),
        n_shared_experts=_first(config, "n_shared_experts", default=0),
    )
    return Mapping(
        "deepseek", glm, "DeepSeek's first mixture has the tensors of Glm4Moe without norms of heads"
    )


def _kimi_k2(config: dict[str, Any]) -> Mapping:
    """Kimi K2: its repository's code is DeepSeek-V3's, with other sizes."""
    return Mapping(
        "kimi_k2",
        _renamed(config, "deepseek_v3", "DeepseekV3ForCausalLM"),
        "Kimi K2 has the shape of DeepSeek-V3",
    )


def _baichuan(config: dict[str, Any]) -> Mapping:
    """Baichuan and Baichuan 2 (7B rotary, 13B ALiBi): Llama with one fused projection and every head its own key."""
    heads = _need(config, "num_attention_heads")
    shape = _llama_shape(
        config,
        num_key_value_heads=heads,
        max_position_embeddings=_first(config, "max_position_embeddings", "model_max_length", default=4096),
    )
    return Mapping("baichuan", shape, "Baichuan has the shape of Llama, its projections fused")


def _internlm(config: dict[str, Any]) -> Mapping:
    """InternLM: Llama with biases on all four projections of attention when `bias` is set."""
    shape = _llama_shape(config, attention_bias=bool(config.get("bias", True)))
    return Mapping("internlm", shape, "InternLM has the shape of Llama with biases in attention")


def _internlm2(config: dict[str, Any]) -> Mapping:
    """InternLM2 and 2.5: Llama with a fused projection and grouped keys."""
    shape = _llama_shape(config, attention_bias=bool(config.get("bias", False)))
    return Mapping("internlm2", shape, "InternLM2 has the shape of Llama, its projections fused")


def _qwen(config: dict[str, Any]) -> Mapping:
    """The first Qwen: biases on query, key and value only; `intermediate_size` counts gate and up together."""
    if "visual" in config or "audio" in config:
        raise UnsupportedArchitecture(
            "The first Qwen-VL and Qwen-Audio are published only as code in their repositories."
        )
    if not config.get("no_bias", True):
        raise UnsupportedArchitecture("qwen with no_bias false has no counterpart that is known here.")
    heads = _need(config, "num_attention_heads")
    shape = _llama_shape(
        config,
        model_type="qwen2",
        architectures=["Qwen2ForCausalLM"],
        intermediate_size=_need(config, "intermediate_size") // 2,
        num_key_value_heads=heads,
        max_position_embeddings=_first(config, "max_position_embeddings", "seq_length", default=8192),
    )
    shape.pop("attention_bias")
    return Mapping("qwen", shape, "The first Qwen has the shape of Qwen2 with half its intermediate size")


def _minicpm(config: dict[str, Any]) -> Mapping:
    """MiniCPM 1 and 2: Llama with scaled residuals; the dense ones only."""
    if _first(config, "num_experts") is not None:
        shape = _llama_shape(
            config,
            model_type="mixtral",
            architectures=["MixtralForCausalLM"],
            num_local_experts=config["num_experts"],
            num_experts_per_tok=_need(config, "num_experts_per_tok"),
            tie_word_embeddings=bool(config.get("tie_word_embeddings", True)),
        )
        shape.pop("attention_bias")
        return Mapping("minicpm", shape, "MiniCPM-MoE has the shape of Mixtral")
    shape = _llama_shape(config, tie_word_embeddings=bool(config.get("tie_word_embeddings", True)))
    return Mapping("minicpm", shape, "MiniCPM has the shape of Llama")


def _llama_like(name: str, reason: str, **changes: Any) -> Callable[[dict[str, Any]], Mapping]:
    def map_family(config: dict[str, Any]) -> Mapping:
        return Mapping(name, _llama_shape(config, **changes), reason)

    return map_family


def _falcon_old(config: dict[str, Any]) -> Mapping:
    """Falcon before it was in transformers: `RefinedWeb` (40B) and `RefinedWebModel` (7B and 1B)."""
    kv_heads = _first(config, "n_head_kv", "num_kv_heads")
    falcon = _renamed(
        config,
        "falcon",
        "FalconForCausalLM",
        num_hidden_layers=_need(config, "n_layer", "num_hidden_layers"),
        num_attention_heads=_need(config, "n_head", "num_attention_heads"),
        new_decoder_architecture=config.get("model_type") == "RefinedWeb",
        **({"num_kv_heads": kv_heads} if kv_heads is not None else {}),
    )
    return Mapping("falcon", falcon, "RefinedWeb is Falcon under its first name", is_remote_code=False)


def _phi_msft(config: dict[str, Any]) -> Mapping:
    """Phi-1, 1.5 and 2 before they were in transformers (`mixformer-sequential`, `phi-msft`)."""
    hidden = _need(config, "n_embd")
    phi = {
        "model_type": "phi",
        "architectures": ["PhiForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": _first(config, "n_inner", default=4 * hidden),
        "num_hidden_layers": _need(config, "n_layer"),
        "num_attention_heads": _need(config, "n_head"),
        "vocab_size": _need(config, "vocab_size"),
        "max_position_embeddings": _first(config, "n_positions", default=2048),
        "torch_dtype": config.get("torch_dtype"),
    }
    return Mapping("phi-msft", phi, "phi-msft is Phi under its first name", is_remote_code=False)


def _stablelm_epoch(config: dict[str, Any]) -> Mapping:
    """StableLM before it was in transformers."""
    stable = _renamed(
        config, "stablelm", "StableLmForCausalLM", layer_norm_eps=_first(config, "norm_eps", default=1e-5)
    )
    return Mapping("stablelm_epoch", stable, "stablelm_epoch is StableLM's first name", is_remote_code=False)


def _minimax_text(config: dict[str, Any]) -> Mapping:
    """MiniMax-Text-01 and MiniMax-M1 from their repositories; `attn_type_list` says which layers are linear."""
    kinds = config.get("attn_type_list") or []
    shape = _renamed(
        config,
        "minimax",
        "MiniMaxForCausalLM",
        layer_types=["full_attention" if kind == 1 else "linear_attention" for kind in kinds],
    )
    return Mapping("minimax_text_01", shape, "MiniMax-Text-01 has the shape of transformers' MiniMax")


_FAMILIES: Final[dict[str, Callable[[dict[str, Any]], Mapping]]] = {
    "chatglm": _chatglm,
    "deepseek": _deepseek,
    "kimi_k2": _kimi_k2,
    "baichuan": _baichuan,
    "internlm": _internlm,
    "internlm2": _internlm2,
    "qwen": _qwen,
    "minicpm": _minicpm,
    "Yi": _llama_like("Yi", "Yi has the shape of Llama"),
    "aquila": _llama_like("aquila", "Aquila has the shape of Llama"),
    "skywork": _llama_like("skywork", "Skywork has the shape of Llama"),
    "xverse": _llama_like("xverse", "XVERSE has the shape of Llama"),
    "exaone": _llama_like("exaone", "EXAONE 3 has the shape of Llama"),
    "RefinedWeb": _falcon_old,
    "RefinedWebModel": _falcon_old,
    "phi-msft": _phi_msft,
    "mixformer-sequential": _phi_msft,
    "stablelm_epoch": _stablelm_epoch,
    "minimax_text_01": _minimax_text,
    "minimax_m1": _minimax_text,
}
#: The names above and those computed without any counterpart.
REMOTE_FAMILIES: Final = frozenset(_FAMILIES)
