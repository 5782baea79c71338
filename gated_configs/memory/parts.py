"""Which part of a model each parameter belongs to, read from the built modules. Runs in the child process.

Every parameter is counted once, where it is met first; shared ones are not counted again.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from torch import nn

from gated_configs.memory.architecture import Matrix

_NORM: Final = re.compile(r"Norm\d?d?$|Norm[A-Z]|LayerScale|^LayerNorm|RMSNorm|Norm$")
_EMBEDDING: Final = re.compile(r"Embedding|Embed$|RelativePositionBias")
_EMBEDDING_NAMES: Final = re.compile(
    r"^(embed_|embeddings?$|wte$|wpe$|shared$|.*_embeddings?$|.*embed_tokens.*|.*_embed$|pos_embed.*|cls_token$|conv1$|conv2$|embedder$|embeddings_project$|embedding_hidden_mapping_in$|project_in$|project_out$|"
    r"patch_embed.*|feature_extractor$|feature_projection$|stem$|.*_tokens?$|masked_spec_embed$|relative_attention_bias$)"
)
_HEAD_NAMES: Final = re.compile(
    r"^(lm_heads?|embed_out|classifier|score|cls|qa_outputs|pooler|proj_out|lm_head_.*|output_projection|"
    r"final_logits_bias|generator_lm_head|generator_predictions|discriminator_predictions|vocab_.*|predictions|"
    r"text_projection|visual_projection|logit_scale|logit_bias|decoder|head|dense|distillation_classifier|"
    r"pre_classifier|codebooks_head|fc|classification_head)$"
)
_RECURRENT: Final = re.compile(
    r"Mixer$|GatedDelta|RecurrentBlock|Rglru|ShortConv|LightningAttention|LinearAttention|DeltaAttention|"
    r"RwkvSelfAttention|mLSTMLayer"
)
_EXPERTS: Final = re.compile(r"Experts?($|MLP|Layer)")
_ROUTER: Final = re.compile(r"Router|Gate$|TopK|Gating")
_ATTENTION: Final = re.compile(r"Attention|Attn")
_MLP: Final = re.compile(r"MLP|Mlp|FeedForward|DenseAct|DenseGated|FFN|Intermediate|FFW")
_MLP_NAMES: Final = re.compile(
    r"^(mlp|fc1|fc2|feed_forward|ffn|intermediate|output|ff|lin1|lin2|w1|w2|w3|fc_in|fc_out|"
    r"ffn_output|downsample|reduction|shared_experts?|feedforward|final_linear|shared_mlp|moe|block_sparse_moe|ffn1|ffn2)$"
)
_ATTENTION_NAMES: Final = re.compile(
    r"^(self_attn|attn|attention|cross_attn|encoder_attn|q_proj|k_proj|v_proj|o_proj|out_proj|q_norm|k_norm|sinks|"
    r"self_attention|key|query|value|q|k|v|o|crossattention|EncDecAttention|SelfAttention|out_lin|q_lin|k_lin|v_lin)$"
)

#: Buffers that are learned: the corrections with which a router balances its experts.
_STORED_BUFFERS: Final = {"e_score_correction_bias", "expert_bias", "expert_biases", "correction_bias"}
_CONVOLUTION: Final = re.compile(r"Conv|BasicLayer|BottleNeck")
#: What linear layers and fused experts call their matrices; biases of fused experts are tables, not matrices.
_WEIGHTS: Final = ("weight", "gate_up_proj", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3", "v1")

_QUANTISED: Final = {"attention", "recurrent", "mlp", "experts"}

_VISION: Final = re.compile(r"vision|visual|image|vit$|vqmodel|vqvae")
_AUDIO: Final = re.compile(r"audio|speech|sound")
_CODEC: Final = re.compile(r"Encodec|Dac|Mimi|XCodec|Codec|Snac|AudioTokenizer")
_PROJECTOR: Final = re.compile(
    r"project(or|ion)|connector|aligner|merger|abstractor|qformer|embed_vision|embed_audio|"
    r"enc_to_dec_proj|audio_enc_to_dec_proj|query_tokens|language_projection|multi_modal"
)
_TEXT: Final = re.compile(r"^(text_encoder|text_model|text_tower|question_encoder|ctx_encoder)$")


@dataclass
class Inventory:
    """Parameters by part, what of them belongs to experts, and the matrices that a quantiser would take.

    `expert_elements` maps a number of experts to the elements that are spread over so many.
    """

    parts: Counter[str] = field(default_factory=Counter)
    expert_elements: Counter[int] = field(default_factory=Counter)
    matrices: Counter[tuple[int, int, str]] = field(default_factory=Counter)
    buffers: int = 0
    stored_buffers: int = 0

    @property
    def total(self) -> int:
        """All parameters, each once."""
        return sum(self.parts.values())

    def matrix_list(self) -> tuple[Matrix, ...]:
        """The matrices, largest first."""
        ordered = sorted(self.matrices.items(), key=lambda item: -item[0][0] * item[0][1] * item[1])
        return tuple(Matrix(rows, columns, count, part) for (rows, columns, part), count in ordered)


def take_inventory(model: nn.Module, *, tower: str | None = None, has_towers: bool = False) -> Inventory:
    """Every parameter of a model, sorted into parts.

    `tower` names one part that all of it belongs to (a codec alone); with `has_towers` the children that see,
    hear or read for another model become parts of their own.
    """
    inventory = Inventory()
    _walk(model, tower, None, inventory, set(), 0, has_towers, 0)
    return inventory


def every_module(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Each module below with its path, in torch's order, and those that stand in several places once for each.

    The same as `named_modules(remove_duplicate=False)`, which takes several times as long over deep models.
    """
    waiting = [("", root)]
    while waiting:
        path, module = waiting.pop()
        yield path, module
        prefix = f"{path}." if path else ""
        waiting += [
            (prefix + name, child) for name, child in reversed(module._modules.items()) if child is not None
        ]


def _walk(
    module: nn.Module,
    tower: str | None,
    part: str | None,
    inventory: Inventory,
    seen: set[int],
    experts: int,
    has_towers: bool,
    depth: int,
) -> None:
    name_of_class = type(module).__name__
    for name, parameter in module._parameters.items():
        if parameter is None or id(parameter) in seen:
            continue
        seen.add(id(parameter))
        elements = parameter.numel()
        home = tower or _part_of_parameter(name, part)
        inventory.parts[home] += elements
        if experts and home == "experts":
            inventory.expert_elements[experts] += elements
        shape = tuple(parameter.shape)
        is_matrix = len(shape) == 2 or (len(shape) == 3 and home == "experts")
        if is_matrix and part in _QUANTISED and name.startswith(_WEIGHTS) and not name.endswith("bias"):
            inventory.matrices[shape[-2], shape[-1], home] += math.prod(shape[:-2])
    for name, buffer in module._buffers.items():
        if buffer is not None and id(buffer) not in seen:
            seen.add(id(buffer))
            inventory.buffers += buffer.numel()
            if name in _STORED_BUFFERS and name not in module._non_persistent_buffers_set:
                inventory.stored_buffers += buffer.numel()
    for name, child in module._modules.items():
        if child is None:
            continue
        child_tower = tower
        if child_tower is None and has_towers and depth <= 2:
            child_tower = _tower_of(name, child)
        child_part = _part_of_module(name, type(child).__name__, part, name_of_class)
        child_experts = experts or _experts_of(name, child, child_part)
        _walk(child, child_tower, child_part, inventory, seen, child_experts, has_towers, depth + 1)


def _tower_of(name: str, module: nn.Module) -> str | None:
    if _CODEC.search(type(module).__name__):
        return "codec"
    if _PROJECTOR.search(name):
        return "projector"
    if _TEXT.search(name):
        return "text"
    if _AUDIO.search(name):
        return "audio"
    return "vision" if _VISION.search(name) else None


@lru_cache(maxsize=4096)
def _part_of_module(name: str, kind: str, part: str | None, parent_kind: str) -> str | None:
    """The part a module belongs to, given the part it stands in."""
    if _NORM.search(kind):
        return "norms"
    if part in {"head", "embeddings", "norms", "experts", "router"}:
        return part
    if (name == "experts" or _EXPERTS.search(kind)) and not name.startswith("shared"):
        return "experts"
    if _ROUTER.search(kind) or (
        name in {"router", "gate"}
        and ("Moe" in parent_kind or "MoE" in parent_kind or "Sparse" in parent_kind or "Router" in kind)
    ):
        return "router"
    if _RECURRENT.search(kind):
        return "recurrent"
    if part is None:
        if _EMBEDDING.search(kind) or _EMBEDDING_NAMES.match(name):
            return "embeddings"
        if _HEAD_NAMES.match(name) and (_is_leaf(kind) or name not in {"decoder", "dense"}):
            return "head"
    if part != "recurrent" and (_ATTENTION.search(kind) or _ATTENTION_NAMES.match(name)):
        return "attention"
    if part is None and (_MLP.search(kind) or _MLP_NAMES.match(name)):
        return "mlp"
    return "convolution" if part is None and _CONVOLUTION.search(kind) else part


def _is_leaf(kind: str) -> bool:
    """Whether a class name is that of a plain layer, so that a `decoder` of it is a head and no stack."""
    return kind in {"Linear", "Conv1d", "Conv1D"}


def _part_of_parameter(name: str, part: str | None) -> str:
    if part is not None:
        return part
    if _EMBEDDING_NAMES.match(name):
        return "embeddings"
    return "head" if _HEAD_NAMES.match(name) else "other"


def _experts_of(name: str, module: nn.Module, part: str | None) -> int:
    """How many experts the parameters below are spread over, or 0."""
    if part != "experts":
        return 0
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        return len(module)
    count: Any = getattr(module, "num_experts", None)
    if not isinstance(count, int) or isinstance(count, bool):
        shapes = [parameter.shape[0] for parameter in module._parameters.values() if parameter is not None]
        count = shapes[0] if shapes else len(module._modules)
    return int(count)
