"""What each layer keeps from step to step, read from the built modules. Runs in the child process.

Keys and values come from the width of the projections that make them; how far a layer looks from
transformers' own `DynamicCache`; recurrent states from the shapes that the layers' forward passes keep.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from torch import nn

from gated_configs.memory.architecture import LayerState
from gated_configs.memory.blueprint import Blueprint, setting
from gated_configs.memory.errors import UnsupportedArchitecture
from gated_configs.memory.parts import every_module
from gated_configs.memory.recurrent import is_recurrent, recurrent_state

_CROSS: Final = re.compile(r"encoder_attn|EncDecAttention|cross_?attn|cross_?attention|encoder_decoder_attn")
_SEPARATE: Final = (("k_proj", "v_proj"), ("key", "value"), ("k", "v"), ("k_lin", "v_lin"), ("wk", "wv"))
_FUSED: Final = ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "qkv", "att_proj", "W_pack", "kv_proj")
_KV_HEADS: Final = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "kv_n_heads", "n_kv_heads", "num_kv")
_HEADS: Final = ("num_attention_heads", "num_heads", "n_heads", "n_head", "decoder_attention_heads")
_HEAD_DIM: Final = (
    "head_dim",
    "attention_head_size",
    "key_value_proj_dim",
    "head_size",
    "d_kv",
    "qk_head_dim",
)
#: Layer types of transformers that keep a state beside keys and values, or instead of them.
_RECURRENT_KINDS: Final = {"linear_attention", "conv", "hybrid", "hybrid_sliding"}
#: Families whose layers keep states of forms that are not known here.
_UNKNOWN_STATES: Final = {"xlstm", "zaya", "inkling", "inkling2"}
#: Layer types of transformers whose caches have a form of their own that is not known here.
_UNKNOWN_CACHES: Final = {"heavily_compressed_attention", "compressed_sparse_attention"}


@dataclass(frozen=True)
class Attention:
    """One attention module: its heads, key-value heads, width of a head, and elements cached per token."""

    layer: int
    kind: str
    is_cross: bool
    heads: int
    kv_heads: int
    head_dim: int
    elements: int
    path: str


def attentions(stack: nn.Module, config: Any) -> list[Attention]:
    """Every attention module below `stack`, in order of layers."""
    found = []
    modules = [
        (path, module)
        for path, module in every_module(stack)
        # An attention has projections: what has no parts is none, and most modules have none.
        if module._modules and not is_recurrent(module)
    ]
    uses = Counter(id(module) for _, module in modules)
    for path, module in modules:
        attention = _read(path, module, config)
        if attention is not None:
            # Zamba2 calls one block from several layers, each with a cache of its own.
            layer = _number_in(path) if uses[id(module)] > 1 else attention.layer
            found.append(replace(attention, layer=layer))
    return sorted(found, key=lambda attention: attention.layer)


def kind_of(heads: int, kv_heads: int) -> str:
    """mha, mqa or gqa, by how many query heads share a key head."""
    if kv_heads == heads:
        return "mha"
    return "mqa" if kv_heads == 1 else "gqa"


def decoder_of(blueprint: Blueprint) -> nn.Module:
    """The stack that generates step by step."""
    model = blueprint.model
    getter = getattr(model, "get_decoder", None)
    if callable(getter):
        try:
            decoder = getter()
        except (AttributeError, NotImplementedError):
            decoder = None
        # ModernBERT's decoder calls its head `decoder`: a stack has layers.
        if isinstance(decoder, nn.Module) and any(isinstance(m, nn.ModuleList) for m in decoder.modules()):
            return decoder
    return model


def layer_states(blueprint: Blueprint) -> tuple[LayerState, ...]:
    """What each layer of the decoder keeps, equal layers together.

    Raises UnsupportedArchitecture where a layer's state has a form that is not known here.
    """
    config = blueprint.text_config
    if blueprint.family in _UNKNOWN_STATES:
        raise UnsupportedArchitecture(
            f"The recurrent state of {blueprint.family} has a form that is not known here."
        )
    stack = decoder_of(blueprint)
    looks = _looks(config)
    states: dict[int, LayerState] = {}
    for layer, module in _recurrent_modules(stack):
        state = recurrent_state(module)
        if state is not None:
            states[layer] = _joined(states.get(layer), replace(state, layers=(layer,)))
    for attention in attentions(stack, config):
        if attention.is_cross:
            state = LayerState(
                (attention.layer,),
                attention.kind,
                "full",
                cross_elements=attention.elements,
                heads=attention.kv_heads,
            )
        else:
            pattern, window = _look_of(attention, stack, looks)
            if pattern == "shared":
                state = LayerState((attention.layer,), attention.kind, "shared", heads=attention.kv_heads)
            else:
                state = LayerState(
                    (attention.layer,),
                    attention.kind,
                    pattern,
                    attention.elements,
                    window,
                    heads=1 if attention.kind == "mla" else attention.kv_heads,
                )
        states[attention.layer] = _joined(states.get(attention.layer), state)
    for layer, (pattern, _) in enumerate(looks):
        state = states.get(layer)
        if pattern == "recurrent" and (state is None or not (state.state_elements or state.conv_elements)):
            raise UnsupportedArchitecture(
                f"The recurrent state of layer {layer} has a form that is not known here."
            )
    return _grouped(states)


def _joined(first: LayerState | None, second: LayerState) -> LayerState:
    """Two states of one layer: self-attention beside cross-attention, or beside a recurrent mixer."""
    if first is None:
        return second
    main = first if first.token_elements or not second.token_elements else second
    other = second if main is first else first
    is_mixed = bool(main.token_elements) and bool(other.state_elements or other.conv_elements)
    return replace(
        main,
        pattern="hybrid" if is_mixed else main.pattern,
        token_elements=first.token_elements + second.token_elements,
        window=main.window,
        state_elements=first.state_elements + second.state_elements,
        conv_elements=first.conv_elements + second.conv_elements,
        cross_elements=first.cross_elements + second.cross_elements,
        state_dtype=other.state_dtype if other.state_elements else main.state_dtype,
    )


def _grouped(states: dict[int, LayerState]) -> tuple[LayerState, ...]:
    groups: dict[LayerState, list[int]] = {}
    for layer in sorted(states):
        groups.setdefault(replace(states[layer], layers=()), []).append(layer)
    return tuple(replace(state, layers=tuple(layers)) for state, layers in groups.items())


def _read(path: str, module: nn.Module, config: Any) -> Attention | None:
    children = module._modules
    if "kv_a_proj_with_mqa" in children:
        width = _out(children["kv_a_proj_with_mqa"])
        heads = _number(module, config, _HEADS) or 1
        indexer = children.get("indexer")
        if indexer is not None and isinstance(indexer._modules.get("wk"), nn.Linear):
            width += _out(indexer._modules["wk"])
        return Attention(_layer_of(path, module), "mla", False, heads, 1, width, width, path)
    elements = head_dim = 0
    for key_name, value_name in _SEPARATE:
        key = children.get(key_name)
        if isinstance(key, nn.Linear) and ("q" in _initials(children)):
            value = children.get(value_name)
            elements = _out(key) + (_out(value) if isinstance(value, nn.Linear) else _out(key))
            head_dim = _number(module, config, _HEAD_DIM)
            kv_heads = _number(module, None, _KV_HEADS) or _number(None, config, _KV_HEADS)
            heads = _number(module, config, _HEADS)
            if not head_dim:
                head_dim = _out(key) // (kv_heads or heads or 1)
            kv_heads = max(1, _out(key) // head_dim) if head_dim else (kv_heads or 1)
            query = next(
                (
                    children[name]
                    for name in ("q_proj", "query", "q", "q_lin", "wq", "q_b_proj")
                    if isinstance(children.get(name), nn.Linear)
                ),
                None,
            )
            # A gated query (Qwen3-Next) projects to twice its heads: trust the number where there is one.
            heads = heads or (max(1, _out(query) // head_dim) if query is not None else kv_heads)
            break
    else:
        fused = next((children[name] for name in _FUSED if children.get(name) is not None), None)
        if fused is None or not hasattr(fused, "weight"):
            return None
        heads = _number(module, config, _HEADS)
        head_dim = _number(module, config, _HEAD_DIM)
        if not heads or not head_dim:
            return None
        total = max(int(size) for size in getattr(fused, "weight").shape)  # noqa: B009 -- Linear or Conv1D
        kv_heads = _fused_kv_heads(module, config, heads, head_dim, fused)
        elements = 2 * kv_heads * head_dim
        if (heads + 2 * kv_heads) * head_dim != (_out(fused) or total):
            raise UnsupportedArchitecture(
                f"The fused projection {path or type(module).__name__} does not divide into"
                f" {heads} query heads and {kv_heads} key and value heads of {head_dim}."
            )
    is_cross = bool(_CROSS.search(path)) or bool(getattr(module, "is_cross_attention", False))
    return Attention(
        _layer_of(path, module), kind_of(heads, kv_heads), is_cross, heads, kv_heads, head_dim, elements, path
    )


def _fused_kv_heads(module: nn.Module, config: Any, heads: int, head_dim: int, fused: Any) -> int:
    width = _out(fused)
    from_width = (width // head_dim - heads) // 2 if width else 0
    return from_width if from_width > 0 else _number(module, config, _KV_HEADS) or heads


def _initials(children: dict[str, Any]) -> set[str]:
    return {name[0] for name, child in children.items() if child is not None}


def _out(module: Any) -> int:
    """Width of a linear layer's output; GPT-2's Conv1D calls it `nf`."""
    return int(getattr(module, "out_features", 0) or getattr(module, "nf", 0) or 0)


def _number(module: Any, config: Any, names: tuple[str, ...]) -> int:
    for source in (module, config):
        for name in names:
            value = setting(source, name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return 0


def _layer_of(path: str, module: nn.Module) -> int:
    """Index of the layer: the module's own, else the first number in its path."""
    index = getattr(module, "layer_idx", None)
    if isinstance(index, int) and not isinstance(index, bool) and index >= 0:
        return index
    return _number_in(path)


def _number_in(path: str) -> int:
    number = re.search(r"(?:^|\.)(\d+)(?:\.|$)", path)
    return int(number.group(1)) if number else 0


def _recurrent_modules(stack: nn.Module) -> Iterator[tuple[int, nn.Module]]:
    seen: set[int] = set()
    for path, module in every_module(stack):
        if is_recurrent(module) and id(module) not in seen:
            seen.add(id(module))
            yield _layer_of(path, module), module


def _looks(config: Any) -> list[tuple[str, int | None]]:
    """For each layer how far it looks, as transformers sizes its caches; empty where it does not say."""
    from transformers.cache_utils import get_layer_types_and_kwargs

    try:
        kinds, options = get_layer_types_and_kwargs(config)
    except (AttributeError, TypeError, ValueError, KeyError):
        return []
    looks: list[tuple[str, int | None]] = []
    for kind, option in zip(kinds, options, strict=False):
        if kind in _UNKNOWN_CACHES:
            raise UnsupportedArchitecture(f"The cache of {kind.replace('_', ' ')} has a form not known here.")
        window = option.get("sliding_window")
        if kind in _RECURRENT_KINDS:
            looks.append(("recurrent", None))
        elif kind == "dummy":
            looks.append(("shared", None))
        elif window is not None:
            looks.append(("chunked" if kind.startswith("chunked") else "sliding", int(window)))
        else:
            looks.append(("full", None))
    return looks


def _look_of(
    attention: Attention, stack: nn.Module, looks: list[tuple[str, int | None]]
) -> tuple[str, int | None]:
    if attention.layer < len(looks) and looks[attention.layer][0] != "recurrent":
        return looks[attention.layer]
    window = getattr(stack.get_submodule(attention.path), "sliding_window", None)
    return ("sliding", int(window)) if isinstance(window, int) and window > 0 else ("full", None)
