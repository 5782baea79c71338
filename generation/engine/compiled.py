"""A whole step of the decoder by one call of the compiled kernels, where every part of it is one that they know.

Between two small products Python takes longer than the products, and torch's operators wait for each other. What goes
from layer to layer is float32 here. The structures are those of compiled_kernels/step.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import Array, Structure, addressof, c_float, c_int64, c_void_p, pointer
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from generation.engine.blocks import LANES
from generation.engine.packed import CompiledLinear

if TYPE_CHECKING:
    from generation.engine.checkpoint import LoadedModel

_HEAD_SIZES: Final = (16, 32, 64, 128)
#: Steps in one record of keys and values.
_STEPS: Final = 64
_LARGEST: Final = 127
#: Added to each number, so that none is negative.
_ZERO: Final = 128
_LEAST: Final = 1e-30


class Memory(Protocol):
    """What the kernels are told of a take: where its keys and values lie, and how far it is."""

    rows: int
    position: int
    capacity: int
    prompt_length: int

    @property
    def addresses(self) -> Array[Any]:
        """Of each layer the three pointers of `struct memory`."""


class EightBitCache(NamedTuple):
    """Keys and values of one layer as the kernels keep them: in 8 bits, and the scales of each of their steps.

    One record holds 64 steps of a head, so that a step reads what lies together. The kernels read bytes four at a time: of
    a key four numbers beside those of the 15 steps after it, of values those of four steps.
    """

    records: Tensor  # uint8 [capacity / 64, R, heads, 2 * 64 * (size + 4)]

    @classmethod
    def empty(cls, rows: int, heads: int, capacity: int, size: int) -> EightBitCache:
        """Room for so many steps; `capacity` is one of `eight_bit_capacity`."""
        return cls(torch.zeros(capacity // _STEPS, rows, heads, 2 * _STEPS * (size + 4), dtype=torch.uint8))

    def keep(self, keys: Tensor, values: Tensor) -> None:
        """Those of the first L steps, [R, heads, L, size]."""
        rows, heads, _, size = keys.shape
        whole_keys, key_scales = _in_bytes(keys)
        whole_values, value_scales = _in_bytes(values)
        whole_keys = (whole_keys + _ZERO).view(rows, heads, -1, _STEPS // LANES, LANES, size // 4, 4)
        whole_values = (whole_values + _ZERO).view(rows, heads, -1, _STEPS // 4, 4, size)
        parts = (
            whole_keys.transpose(4, 5).to(torch.uint8),
            whole_values.transpose(4, 5).to(torch.uint8),
            key_scales.view(rows, heads, -1, _STEPS).view(torch.uint8),
            value_scales.view(rows, heads, -1, _STEPS).view(torch.uint8),
        )
        made = torch.cat([part.flatten(3) for part in parts], dim=3)  # [R, heads, records, bytes]
        self.records[: made.shape[2]] = made.permute(2, 0, 1, 3)


def eight_bit_capacity(steps: int) -> int:
    """Steps that there is room for, where so many are needed."""
    return -(-steps // _STEPS) * _STEPS


def _in_bytes(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers [R, heads, L, size] as whole ones up to 127 with room up to a multiple of 64 steps, and their scales."""
    numbers = pad(numbers.float(), (0, 0, 0, -numbers.shape[2] % _STEPS))
    scales = numbers.abs().amax(dim=-1) / _LARGEST
    return (numbers / scales.clamp(min=_LEAST).unsqueeze(-1)).round(), scales


class _Norm(Structure):
    _fields_ = [("weight", c_void_p), ("bias", c_void_p)]


class _Weight(Structure):
    _fields_ = [("numbers", c_void_p), ("held", c_int64)]


class _Attention(Structure):
    _fields_ = [("norm", _Norm), *((name, _Weight) for name in ("query", "key", "value", "out"))]


class _Layer(Structure):
    _fields_ = [
        ("own", _Attention),
        ("prompt", _Attention),
        ("norm", _Norm),
        ("widen", _Weight),
        ("narrow", _Weight),
    ]


class _Decoder(Structure):
    _fields_ = [
        *(
            (name, c_int64)
            for name in (
                *("layers", "width", "inner", "heads", "codebooks"),
                *("tokens", "vocabulary", "has_prompt", "is_relu"),
            )
        ),
        ("scale", c_float),
        ("epsilon", c_float),
        ("layer", c_void_p),
        ("norm", _Norm),
        ("embeddings", c_void_p),
        ("lm_heads", c_void_p),
    ]


class _Take(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("rows", "position", "prompt")),
        ("memory", c_void_p),
        ("tokens", c_void_p),
        ("place", c_void_p),
    ]


class CompiledStep:
    """One step of a decoder that `is_known`."""

    def __init__(self, model: LoadedModel) -> None:
        assert model.kernels is not None
        decoder: Any = model.network.decoder
        body, heads = decoder.model.decoder, decoder.lm_heads
        first = body.layers[0]
        self._decode = model.kernels.decode
        self._keep = decoder  # the addresses are its weights'
        self._layers = (_Layer * len(body.layers))(*map(_layer, body.layers))
        self._embeddings = (c_void_p * len(heads))(*(embed.weight.data_ptr() for embed in body.embed_tokens))
        self._heads = (_Weight * len(heads))(*map(_weight, heads))
        self._codebooks, self._vocabulary = len(heads), heads[0].out_features
        self._width = decoder.config.hidden_size
        self._decoder = _Decoder(
            layers=len(body.layers),
            width=self._width,
            inner=first.fc1.out_features,
            heads=decoder.config.num_attention_heads,
            codebooks=self._codebooks,
            tokens=body.embed_tokens[0].num_embeddings,
            vocabulary=self._vocabulary,
            has_prompt=hasattr(first, "encoder_attn"),
            is_relu=decoder.config.activation_function == "relu",
            scale=first.self_attn.scaling,
            epsilon=body.layer_norm.eps,
            layer=addressof(self._layers),
            norm=_norm(body.layer_norm),
            embeddings=addressof(self._embeddings),
            lm_heads=addressof(self._heads),
        )

    def __call__(self, tokens: Tensor, memories: Sequence[Memory], places: Tensor) -> Tensor:
        """Logits [R1 + R2 + ..., K, V] in float32 of the token after `tokens` [N, K] for N takes.

        `places` [L, H] in float32 are the numbers of all positions. Raises IndexError for a token that has no embedding and
        for a take whose memory is full; MemoryError.
        """
        if any(memory.position >= min(memory.capacity, len(places)) for memory in memories):
            raise IndexError("a take's memory is full")
        tokens = tokens.contiguous()
        takes = (_Take * len(memories))(
            *(
                _Take(
                    rows=memory.rows,
                    position=memory.position,
                    prompt=memory.prompt_length,
                    memory=addressof(memory.addresses),
                    tokens=tokens.data_ptr() + 8 * self._codebooks * number,
                    place=places.data_ptr() + 4 * self._width * memory.position,
                )
                for number, memory in enumerate(memories)
            )
        )
        rows = sum(memory.rows for memory in memories)
        logits = torch.empty(rows, self._codebooks, self._vocabulary)
        if not self._decode(pointer(self._decoder), takes, len(memories), logits.data_ptr()):
            if not 0 <= int(tokens.min()) <= int(tokens.max()) < self._decoder.tokens:
                raise IndexError("a token has no embedding")
            raise MemoryError("no memory for a step of the decoder")
        return logits


def is_known(model: LoadedModel) -> bool:
    """Whether the kernels know every part of the decoder: one on a processor, packed for them, without adapters."""
    if model.kernels is None or model.dtype != torch.bfloat16:
        return False
    decoder: Any = model.network.decoder
    config, body, heads = decoder.config, decoder.model.decoder, decoder.lm_heads
    modules = list(decoder.modules())
    linears = [module for module in modules if isinstance(module, nn.Linear)]
    norms = [module for module in modules if isinstance(module, nn.LayerNorm)]
    sizes = (config.hidden_size, config.ffn_dim, heads[0].out_features)
    conditions = (
        config.activation_function in ("gelu", "relu"),
        config.hidden_size // config.num_attention_heads in _HEAD_SIZES,
        all(size % LANES == 0 for size in sizes),
        all(isinstance(linear, CompiledLinear) and linear.bias is None for linear in linears),
        all(type(embed) is nn.Embedding for embed in body.embed_tokens),
        all(len(list(norm.parameters())) == 2 and norm.eps == body.layer_norm.eps for norm in norms),
        all(each.dtype == torch.bfloat16 and each.is_contiguous() for each in decoder.parameters()),
    )
    return all(conditions)


def _norm(norm: nn.LayerNorm) -> _Norm:
    return _Norm(norm.weight.data_ptr(), norm.bias.data_ptr())


def _attention(attention: Any, norm: nn.LayerNorm) -> _Attention:
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    return _Attention(_norm(norm), *(_weight(getattr(attention, name)) for name in names))


def _weight(linear: CompiledLinear) -> _Weight:
    return _Weight(linear.held[0].data_ptr(), linear.form)


def _layer(layer: Any) -> _Layer:
    made = _Layer(
        own=_attention(layer.self_attn, layer.self_attn_layer_norm),
        norm=_norm(layer.final_layer_norm),
        widen=_weight(layer.fc1),
        narrow=_weight(layer.fc2),
    )
    if hasattr(layer, "encoder_attn"):  # melody models lack it
        made.prompt = _attention(layer.encoder_attn, layer.encoder_attn_layer_norm)
    return made
