"""Which families are known by name, and which fields a config of each must have. Names only.

The list of transformers' families is read as text from its own table, so that nothing of it is imported.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from gated_configs.memory.computed import COMPUTED_FAMILIES
from gated_configs.memory.remote import REMOTE_FAMILIES

_HIDDEN: Final = (
    "hidden_size",
    "n_embd",
    "d_model",
    "dim",
    "model_dim",
    "embed_dim",
    "emb_dim",
    "encoder_hidden_size",
)
_LAYERS: Final = (
    "num_hidden_layers",
    "n_layer",
    "num_layers",
    "n_layers",
    "decoder_layers",
    "encoder_layers",
    "layers_block_type",
    "num_transformer_layers",
    "block_configs",
    "hybrid_override_pattern",
    "num_decoder_layers",
)
_HEADS: Final = (
    "num_attention_heads",
    "n_head",
    "num_heads",
    "n_heads",
    "decoder_attention_heads",
    "encoder_attention_heads",
    "num_query_heads",
)
#: What one family calls hidden size, layers and heads, where it is not the common name.
_OWN_NAMES: Final = {
    "gpt2": ("n_embd", "n_layer", "n_head"),
    "gpt_bigcode": ("n_embd", "n_layer", "n_head"),
    "gptj": ("n_embd", "n_layer", "n_head"),
    "codegen": ("n_embd", "n_layer", "n_head"),
    "openai-gpt": ("n_embd", "n_layer", "n_head"),
    "bloom": ("hidden_size", "n_layer", "n_head"),
    "mpt": ("d_model", "n_layers", "n_heads"),
    "dbrx": ("d_model", "n_layers", "n_heads"),
    "t5": ("d_model", "num_layers", "num_heads"),
    "mt5": ("d_model", "num_layers", "num_heads"),
    "umt5": ("d_model", "num_layers", "num_heads"),
    "longt5": ("d_model", "num_layers", "num_heads"),
    "switch_transformers": ("d_model", "num_layers", "num_heads"),
    "distilbert": ("dim", "n_layers", "n_heads"),
    "whisper": ("d_model", "decoder_layers", "decoder_attention_heads"),
    "bart": ("d_model", "decoder_layers", "decoder_attention_heads"),
    "mbart": ("d_model", "decoder_layers", "decoder_attention_heads"),
    "pegasus": ("d_model", "decoder_layers", "decoder_attention_heads"),
    "marian": ("d_model", "decoder_layers", "decoder_attention_heads"),
    "m2m_100": ("d_model", "decoder_layers", "decoder_attention_heads"),
    "blenderbot": ("d_model", "decoder_layers", "decoder_attention_heads"),
    "chatglm": ("hidden_size", "num_layers", "num_attention_heads"),
}
_NO_HEADS: Final = {"mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm", "lfm2"}
#: Families whose config may leave every size to its class: pictures, sound, and models made of several.
_FREE: Final = frozenset(
    {
        "resnet",
        "convnext",
        "convnextv2",
        "mobilenet_v1",
        "mobilenet_v2",
        "regnet",
        "efficientnet",
        "bit",
        "dac",
        "mimi",
        "segformer",
        "swin",
        "swinv2",
        "levit",
        "cvt",
        "poolformer",
        "pvt",
        "vits",
        "xcodec",
        "univnet",
        "hiera",
        "mobilevit",
        "mobilevitv2",
        "focalnet",
        "swiftformer",
        "timm_wrapper",
        "dpt",
        "detr",
        "rt_detr",
        "sam",
    }
)
_COMPOSITE_PARTS: Final = {
    "musicgen": ("text_encoder", "audio_encoder", "decoder"),
    "musicgen_melody": ("text_encoder", "audio_encoder", "decoder"),
    "vision-encoder-decoder": ("encoder", "decoder"),
    "speech-encoder-decoder": ("encoder", "decoder"),
    "encoder-decoder": ("encoder", "decoder"),
    "rag": ("question_encoder", "generator"),
    "encodec": ("sampling_rate", "upsampling_ratios", "codebook_size"),
}


@dataclass(frozen=True)
class RequiredFields:
    """Fields that a family needs: for each its `names` here, and the other names under which it may stand."""

    groups: tuple[tuple[str, ...], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The fields as this family calls them, `model_type` first."""
        return ("model_type", *(group[0] for group in self.groups))

    def missing_from(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Those that a config has under none of their names; a config of several parts may have them in a part."""
        if any(isinstance(config.get(part), Mapping) for part in _PARTS):
            groups = tuple(
                group
                for group in self.groups
                if group[0] in {g for p in _COMPOSITE_PARTS.values() for g in p}
            )
        else:
            groups = self.groups
        return tuple(group[0] for group in groups if all(config.get(name) is None for name in group))


_PARTS: Final = (
    "text_config",
    "vision_config",
    "audio_config",
    "llm_config",
    "thinker_config",
    "decoder",
    "encoder",
    "text_encoder",
    "generator",
    "language_config",
    "semantic_config",
    "esm_config",
    "backbone_config",
    "depth_decoder_config",
    "decoder_config",
    "encoder_config",
)


def required_fields(family: str) -> RequiredFields:
    """What a config of a family must say. Everything else may be left to the family's own defaults."""
    if family in _COMPOSITE_PARTS:
        return RequiredFields(tuple((name,) for name in _COMPOSITE_PARTS[family]))
    if family in _FREE:
        return RequiredFields(())
    hidden, layers, heads = _OWN_NAMES.get(family, (_HIDDEN[0], _LAYERS[0], _HEADS[0]))
    groups = [_first_then(hidden, _HIDDEN), _first_then(layers, _LAYERS)]
    if family not in _NO_HEADS:
        groups.append(_first_then(heads, _HEADS))
    return RequiredFields(tuple(groups))


def _first_then(name: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return (name, *(other for other in names if other != name))


@cache
def known_families() -> frozenset[str]:
    """Every `model_type` that can be tried: transformers' own and those mapped or computed here."""
    spec = importlib.util.find_spec("transformers")
    table = ""
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "models" / "auto"
        for name in ("auto_mappings.py", "configuration_auto.py"):
            if (folder / name).is_file():
                table += (folder / name).read_text(encoding="utf-8")
    own = frozenset(re.findall(r"\(\"([A-Za-z0-9_.-]+)\", \"\w+Config\"\)", table))
    return own | REMOTE_FAMILIES | COMPUTED_FAMILIES


def is_known(family: str) -> bool:
    """Whether the family is one that can be tried."""
    return family in known_families()


def suggestions(family: str) -> list[str]:
    """Known families that are spelled almost the same."""
    return difflib.get_close_matches(family[:60], sorted(known_families()), n=2, cutoff=0.8)


def family_of(config: Mapping[str, Any]) -> str | None:
    """The family that a config names, or the one its class name tells: `LlamaForCausalLM` is "llama"."""
    family = config.get("model_type")
    if isinstance(family, str) and family.strip():
        return family.strip()
    named = config.get("architectures")
    for name in named if isinstance(named, list) else []:
        if not isinstance(name, str):
            continue
        stem = re.sub(r"(For\w+|LMHeadModel|WithLMHeadModel|DoubleHeadsModel|Model)$", "", name)
        folded = stem.lower()
        for known in sorted(known_families()):
            if re.sub(r"[^a-z0-9]", "", known.lower()) == folded:
                return known
    return None
