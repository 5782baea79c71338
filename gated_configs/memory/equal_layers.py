"""Equal layers are built once and copied: a large model is a hundred times the same. Runs in the child process.

Only classes of which it is known what in them depends on the layer; all others are built layer by layer.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Final

import torch
from torch import nn

#: What of a layer depends on its index, beside the lists of the config that have an entry for each layer.
Kind = Callable[[Any, int], Hashable]


def _alike(config: Any, index: int) -> Hashable:
    return None


def _after_dense(config: Any, index: int) -> Hashable:
    return bool(index >= config.first_k_dense_replace)


def _every_so_many(config: Any, index: int) -> Hashable:
    return (index + 1) % config.decoder_sparse_step == 0, index in config.mlp_only_layers


def _listed_experts(config: Any, index: int) -> Hashable:
    return index in config.moe_layers


def _counted_experts(config: Any, index: int) -> Hashable:
    return int(config.layers_num_experts[index])


#: Read from the classes of transformers 5.23. A test holds every sample's copies to the whole build.
_KINDS: Final[dict[str, Kind]] = {
    "bert.BertLayer": _alike,
    "clip.CLIPEncoderLayer": _alike,
    "cohere.CohereDecoderLayer": _alike,
    "deepseek_v2.DeepseekV2DecoderLayer": _after_dense,
    "deepseek_v3.DeepseekV3DecoderLayer": _after_dense,
    "deepseek_v32.DeepseekV32DecoderLayer": _alike,
    "falcon.FalconDecoderLayer": _alike,
    "gemma.GemmaDecoderLayer": _alike,
    "gemma2.Gemma2DecoderLayer": _alike,
    "gemma3.Gemma3DecoderLayer": _alike,
    "glm.GlmDecoderLayer": _alike,
    "glm4_moe.Glm4MoeDecoderLayer": _after_dense,
    "gpt2.GPT2Block": _alike,
    "gpt_oss.GptOssDecoderLayer": _alike,
    "jamba.JambaAttentionDecoderLayer": _counted_experts,
    "jamba.JambaMambaDecoderLayer": _counted_experts,
    "llama.LlamaDecoderLayer": _alike,
    "llama4.Llama4TextDecoderLayer": _listed_experts,
    "minimax.MiniMaxDecoderLayer": _alike,
    "mistral.MistralDecoderLayer": _alike,
    "mixtral.MixtralDecoderLayer": _alike,
    "musicgen.MusicgenDecoderLayer": _alike,
    "musicgen_melody.MusicgenMelodyDecoderLayer": _alike,
    "opt.OPTDecoderLayer": _alike,
    "phi3.Phi3DecoderLayer": _alike,
    "phimoe.PhimoeDecoderLayer": _alike,
    "qwen2.Qwen2DecoderLayer": _alike,
    "qwen2_moe.Qwen2MoeDecoderLayer": _every_so_many,
    "qwen2_vl.Qwen2VLDecoderLayer": _alike,
    "qwen2_vl.Qwen2VLVisionBlock": _alike,
    "qwen2_5_vl.Qwen2_5_VLDecoderLayer": _alike,
    "qwen2_5_vl.Qwen2_5_VLVisionBlock": _alike,
    "qwen3.Qwen3DecoderLayer": _alike,
    "qwen3_moe.Qwen3MoeDecoderLayer": _every_so_many,
    "qwen3_next.Qwen3NextDecoderLayer": _every_so_many,
    "t5.T5Block": _alike,
    "whisper.WhisperDecoderLayer": _alike,
    "whisper.WhisperEncoderLayer": _alike,
}


#: Endings of lists that are of tokens, or of numbers of layers, and have no entry for each layer.
_OTHER_LISTS: Final = ("_id", "_ids", "_tokens", "moe_layers", "mlp_only_layers")


@contextlib.contextmanager
def equal_layers_once() -> Iterator[None]:
    """Have layers that are known to be equal copied from the first of their kind, while a model is built."""
    replaced: list[tuple[Any, Any]] = []
    for name, kind in _KINDS.items():
        package, _, class_name = name.partition(".")
        module = sys.modules.get(f"transformers.models.{package}.modeling_{package}")
        layer_class: Any = getattr(module, class_name, None)
        if layer_class is not None:
            replaced.append((layer_class, layer_class.__init__))
            layer_class.__init__ = _once(layer_class, kind)
    try:
        yield
    finally:
        for layer_class, build in replaced:
            layer_class.__init__ = build


def _once(layer_class: Any, kind: Kind) -> Callable[..., None]:
    build = layer_class.__init__
    #: The first layer of each kind, with its config: as long as that is held, no other has its id.
    first: dict[Hashable, tuple[nn.Module, Any]] = {}

    def init(self: nn.Module, config: Any, *arguments: Any, **options: Any) -> None:
        if type(self) is not layer_class or config.is_heterogeneous:
            build(self, config, *arguments, **options)
            return
        others = dict(options)
        index = others.pop("layer_idx", arguments[0] if arguments else 0)
        key = (id(config), kind(config, index), _entries(config, index), arguments[1:], tuple(others.items()))
        if key in first:
            _become(self, first[key][0], index)
        else:
            build(self, config, *arguments, **options)
            first[key] = (self, config)

    return init


def _entries(config: Any, index: int) -> Hashable:
    """What the config's lists say of one layer: its type, whether it slides, how many experts it has."""
    return tuple(
        (name, repr(value[index]))
        for name, value in vars(config).items()
        if isinstance(value, (list, tuple)) and index < len(value) and not name.endswith(_OTHER_LISTS)
    )


def _become(module: nn.Module, original: nn.Module, index: int) -> None:
    """Make a fresh module what the original is, with parameters of its own, as the layer of that index."""
    state = vars(original).copy()
    if state.get("layer_idx") is not None:
        state["layer_idx"] = index
    state["_parameters"] = {
        name: value if value is None else torch.Tensor._make_subclass(nn.Parameter, value, False)
        for name, value in original._parameters.items()
    }
    state["_buffers"] = {
        name: value if value is None else value.detach() for name, value in original._buffers.items()
    }
    state["_modules"] = {
        name: child if child is None else _copy(child, index) for name, child in original._modules.items()
    }
    vars(module).update(state)


def _copy(original: nn.Module, index: int) -> nn.Module:
    module: nn.Module = object.__new__(type(original))
    _become(module, original, index)
    return module
