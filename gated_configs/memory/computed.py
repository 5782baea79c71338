"""Families published only as code whose layers differ one by one, computed from that code's arithmetic.

Plain numbers: no class is built. Each reader names the file whose layers it adds up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from gated_configs.memory.architecture import Architecture, Count, LayerState, Matrix, Parameters, Shapes
from gated_configs.memory.dtypes import declared_format
from gated_configs.memory.errors import UnsupportedArchitecture

#: No config met in the wild has more; a list longer than this is no model.
_MAX_LAYERS: Final = 2048


@dataclass
class _Sum:
    """Parameters by part and the matrices among them, added up layer by layer."""

    parts: Counter[str] = field(default_factory=Counter)
    matrices: Counter[tuple[int, int, str]] = field(default_factory=Counter)
    states: list[LayerState] = field(default_factory=list)

    def linear(self, part: str, outputs: int, inputs: int, *, bias: bool = False, times: int = 1) -> None:
        self.parts[part] += times * (outputs * inputs + (outputs if bias else 0))
        if part in {"attention", "mlp"}:
            self.matrices[outputs, inputs, part] += times

    def add(self, part: str, elements: int) -> None:
        self.parts[part] += elements

    def keys(self, layer: int, heads: int, kv_heads: int, head_dim: int, window: int | None = None) -> None:
        kind = "mha" if kv_heads == heads else "mqa" if kv_heads == 1 else "gqa"
        self.states.append(
            LayerState(
                (layer,),
                kind,
                "sliding" if window else "full",
                2 * kv_heads * head_dim,
                window,
                heads=kv_heads,
            )
        )


def is_computed(config: dict[str, Any]) -> bool:
    """Whether a config's family is computed here rather than built or mapped."""
    family = config.get("model_type")
    if family == "chatglm":
        return "padded_vocab_size" not in config and "inner_hidden_size" in config
    return family in _READERS


def computed_architecture(config: dict[str, Any]) -> Architecture | None:
    """The architecture of a family that is computed here, or None for every other.

    Raises UnsupportedArchitecture naming the field that is missing or of the wrong kind.
    """
    if not is_computed(config):
        return None
    reader = _READERS[str(config["model_type"])]
    try:
        return reader(config)
    except KeyError as error:
        raise UnsupportedArchitecture(
            f"A config of the family {config['model_type']!r} without {error.args[0]} cannot be computed."
        ) from error
    except (TypeError, AttributeError, IndexError, ZeroDivisionError, ValueError, OverflowError) as error:
        raise UnsupportedArchitecture(
            f"A field of this {config['model_type']!r} config is not of the kind its family has: {error}."
        ) from error


def _result(
    config: dict[str, Any],
    total: _Sum,
    *,
    source: str,
    hidden: int,
    intermediate: int,
    heads: int,
    head_dim: int,
    vocabulary: int,
    context: int,
    tied: int = 0,
    class_name: str = "",
    counts: tuple[Count, ...] = (),
) -> Architecture:
    parameters = sum(total.parts.values())
    groups: dict[LayerState, list[int]] = {}
    for state in total.states:
        bare = LayerState(**{**state.__dict__, "layers": ()})
        groups.setdefault(bare, []).extend(state.layers)
    states = tuple(
        LayerState(**{**state.__dict__, "layers": tuple(layers)}) for state, layers in groups.items()
    )
    kinds = Counter(state.attention for state in total.states)
    patterns = Counter(state.pattern for state in total.states)
    named = [Count("unique", parameters, "every parameter once")]
    if tied:
        named.append(
            Count("ties_written_out", parameters + tied, "shared tensors counted under each of their names")
        )
    matrices = tuple(
        Matrix(rows, columns, count, part)
        for (rows, columns, part), count in sorted(total.matrices.items(), reverse=True)
    )
    return Architecture(
        model_type="decoder-only",
        attention_type=kinds.most_common(1)[0][0] if kinds else "none",
        domain="text",
        family=str(config["model_type"]),
        class_name=class_name or str((config.get("architectures") or [config["model_type"]])[0]),
        built_from=f"arithmetic over the layers of {source}",
        is_remote_code=True,
        parameters=Parameters(
            parameters,
            parameters,
            "each parameter once, by arithmetic",
            dict(total.parts),
            (*named, *counts),
            matrices,
        ),
        states=states,
        shapes=Shapes(
            layers=len(total.states),
            hidden=hidden,
            intermediate=intermediate,
            attention_width=heads * head_dim,
            vocabulary=vocabulary,
            heads=heads,
            head_width=head_dim,
            max_context=context,
        ),
        dtype=declared_format(config.get("torch_dtype")),
        notes=(f"Its code is published only in its repository ({source}); it is computed and never run.",),
        attention_patterns=dict(patterns),
    )


def _layers(values: Any, name: str) -> list[Any]:
    if not isinstance(values, list) or not 0 < len(values) <= _MAX_LAYERS:
        raise UnsupportedArchitecture(f"{name} must list 1 to {_MAX_LAYERS} layers.")
    return values


def _nemotron_nas(config: dict[str, Any]) -> Architecture:
    """Llama-Nemotron (modeling_decilm.py): each layer has its own groups and feed-forward size, or neither."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    bias, mlp_bias = bool(config.get("attention_bias")), bool(config.get("mlp_bias"))
    total, widest = _Sum(), 0
    for index, block in enumerate(_layers(config["block_configs"], "block_configs")):
        attention, feed = block["attention"], block["ffn"]
        if attention.get("replace_with_linear"):
            total.linear("attention", hidden, hidden, bias=bias)
            total.add("norms", hidden)
        elif not attention.get("no_op"):
            kv_heads = heads // attention["n_heads_in_group"]
            total.linear("attention", heads * head_dim, hidden, bias=bias)
            total.linear("attention", kv_heads * head_dim, hidden, bias=bias, times=2)
            total.linear("attention", hidden, heads * head_dim, bias=bias)
            total.add("norms", hidden)
            total.keys(index, heads, kv_heads, head_dim, attention.get("window_length"))
        if feed.get("replace_with_linear"):
            total.linear("mlp", hidden, hidden, bias=mlp_bias)
            total.add("norms", hidden)
        elif not feed.get("no_op"):
            # _ffn_mult_to_intermediate_size: two thirds of twice the multiple, up to a multiple of 256.
            size = feed.get("intermediate_size") or -(-int(2 * feed["ffn_mult"] * hidden / 3) // 256) * 256
            total.linear("mlp", size, hidden, bias=mlp_bias, times=2)
            total.linear("mlp", hidden, size, bias=mlp_bias)
            total.add("norms", hidden)
            widest = max(widest, size)
    return _with_ends(
        config,
        total,
        "modeling_decilm.py of nvidia/Llama-3_3-Nemotron-Super-49B-v1",
        hidden,
        widest,
        heads,
        head_dim,
    )


def _deci(config: dict[str, Any]) -> Architecture:
    """DeciLM (modeling_decilm.py): Llama with its own number of key heads in each layer."""
    hidden, heads, size = config["hidden_size"], config["num_attention_heads"], config["intermediate_size"]
    head_dim = hidden // heads
    total = _Sum()
    for index, kv_heads in enumerate(
        _layers(config["num_key_value_heads_per_layer"], "num_key_value_heads_per_layer")
    ):
        total.linear("attention", heads * head_dim, hidden)
        total.linear("attention", kv_heads * head_dim, hidden, times=2)
        total.linear("attention", hidden, heads * head_dim)
        total.linear("mlp", size, hidden, times=2)
        total.linear("mlp", hidden, size)
        total.add("norms", 2 * hidden)
        total.keys(index, heads, kv_heads, head_dim)
    return _with_ends(config, total, "modeling_decilm.py of Deci/DeciLM-7B", hidden, size, heads, head_dim)


def _with_ends(
    config: dict[str, Any],
    total: _Sum,
    source: str,
    hidden: int,
    intermediate: int,
    heads: int,
    head_dim: int,
) -> Architecture:
    """Embedding, last norm and head around the layers."""
    vocabulary = config["vocab_size"]
    total.add("embeddings", vocabulary * hidden)
    total.add("norms", hidden)
    is_tied = bool(config.get("tie_word_embeddings"))
    if not is_tied:
        total.add("head", vocabulary * hidden)
    return _result(
        config,
        total,
        source=source,
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        context=config.get("max_position_embeddings") or 0,
        tied=vocabulary * hidden if is_tied else 0,
    )


def _openelm(config: dict[str, Any]) -> Architecture:
    """OpenELM (modeling_openelm.py): heads and feed-forward sizes grow from layer to layer."""
    hidden, head_dim, vocabulary = config["model_dim"], config["head_dim"], config["vocab_size"]
    divisor = config.get("ffn_dim_divisor", 256)
    queries, keys = config["num_query_heads"], config["num_kv_heads"]
    multipliers = _layers(config["ffn_multipliers"], "ffn_multipliers")
    total, widest = _Sum(), 0
    for index, multiplier in enumerate(multipliers):
        heads, kv_heads = queries[index], keys[index]
        total.linear("attention", (heads + 2 * kv_heads) * head_dim, hidden)
        total.linear("attention", hidden, heads * head_dim)
        if config.get("normalize_qk_projections", False):
            total.add("norms", 2 * head_dim)
        # make_divisible: to the nearest multiple, and never below nine tenths of the wish.
        wish = multiplier * hidden
        size = max(divisor, int(wish + divisor / 2) // divisor * divisor)
        size += divisor if size < 0.9 * wish else 0
        is_gated = config.get("ffn_with_glu", True)
        total.linear("mlp", size * (2 if is_gated else 1), hidden)
        total.linear("mlp", hidden, size)
        total.add("norms", 2 * hidden)
        total.keys(index, heads, kv_heads, head_dim)
        widest = max(widest, size)
    total.add("embeddings", vocabulary * hidden)
    total.add("norms", hidden)
    is_tied = config.get("share_input_output_layers", True)
    if not is_tied:
        total.add("head", vocabulary * hidden)
    return _result(
        config,
        total,
        source="modeling_openelm.py of apple/OpenELM",
        hidden=hidden,
        intermediate=widest,
        heads=max(queries),
        head_dim=head_dim,
        vocabulary=vocabulary,
        context=config.get("max_context_length") or 0,
    )


def _phi3small(config: dict[str, Any]) -> Architecture:
    """Phi-3-small (modeling_phi3_small.py): biases everywhere, norms with bias, head tied to the embedding."""
    hidden, heads, size = config["hidden_size"], config["num_attention_heads"], config["ff_intermediate_size"]
    kv_heads, vocabulary = config.get("num_key_value_heads") or heads, config["vocab_size"]
    head_dim = hidden // heads
    total = _Sum()
    for index in range(min(config["num_hidden_layers"], _MAX_LAYERS)):
        total.linear("attention", (heads + 2 * kv_heads) * head_dim, hidden, bias=True)
        total.linear("attention", hidden, hidden, bias=True)
        total.linear("mlp", 2 * size, hidden, bias=True)
        total.linear("mlp", hidden, size, bias=True)
        total.add("norms", 4 * hidden)
        total.keys(index, heads, kv_heads, head_dim)
    total.add("embeddings", vocabulary * hidden)
    total.add("norms", 2 * hidden)
    return _result(
        config,
        total,
        source="modeling_phi3_small.py of microsoft/Phi-3-small-8k-instruct",
        hidden=hidden,
        intermediate=size,
        heads=heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        context=config.get("max_position_embeddings") or 0,
        tied=vocabulary * hidden,
    )


def _chatglm_first(config: dict[str, Any]) -> Architecture:
    """ChatGLM-6B (modeling_chatglm.py of THUDM/chatglm-6b): biases in every layer, head tied."""
    hidden, heads, vocabulary = config["hidden_size"], config["num_attention_heads"], config["vocab_size"]
    size = config.get("inner_hidden_size") or 4 * hidden
    head_dim = hidden // heads
    total = _Sum()
    for index in range(min(config["num_layers"], _MAX_LAYERS)):
        total.linear("attention", 3 * hidden, hidden, bias=True)
        total.linear("attention", hidden, hidden, bias=True)
        total.linear("mlp", size, hidden, bias=True)
        total.linear("mlp", hidden, size, bias=True)
        total.add("norms", 4 * hidden)
        total.keys(index, heads, heads, head_dim)
    total.add("embeddings", vocabulary * hidden)
    total.add("norms", 2 * hidden)
    return _result(
        config,
        total,
        source="modeling_chatglm.py of THUDM/chatglm-6b",
        hidden=hidden,
        intermediate=size,
        heads=heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        context=config.get("max_sequence_length") or 0,
        tied=vocabulary * hidden,
    )


_READERS: Final[dict[str, Callable[[dict[str, Any]], Architecture]]] = {
    "nemotron-nas": _nemotron_nas,
    "deci": _deci,
    "openelm": _openelm,
    "phi3small": _phi3small,
    "chatglm": _chatglm_first,
}
COMPUTED_FAMILIES: Final = frozenset(_READERS)
