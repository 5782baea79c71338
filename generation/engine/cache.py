"""Keys and values of one request, in buffers that are as long as the request from the start.

The library's growing cache copies everything it holds at every step; this one writes one position. It plugs
into the library's attention modules and knows nothing of sampling or delay patterns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache


class _PositionedLayer(DynamicLayer):
    """One layer's self-attention keys and values, [R, heads, capacity, head size], filled from the left."""

    def __init__(self, shape: tuple[int, int, int, int], *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self._key_buffer = torch.empty(shape, device=device, dtype=dtype)
        self._value_buffer = torch.empty(shape, device=device, dtype=dtype)
        self._length = 0
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        start, self._length = self._length, self._length + key_states.shape[-2]
        self._key_buffer[:, :, start : self._length] = key_states
        self._value_buffer[:, :, start : self._length] = value_states
        return self._key_buffer[:, :, : self._length], self._value_buffer[:, :, : self._length]

    def get_seq_length(self) -> int:
        return self._length


def request_cache(
    *,
    layers: int,
    rows: int,
    heads: int,
    head_size: int,
    capacity: int,
    device: torch.device,
    dtype: torch.dtype,
) -> EncoderDecoderCache:
    """An empty cache for `capacity` steps of `rows` rows; the first step fills the cross-attention part."""
    shape = (rows, heads, capacity, head_size)
    positioned = [_PositionedLayer(shape, device=device, dtype=dtype) for _ in range(layers)]
    return EncoderDecoderCache(Cache(layers=list(positioned)), DynamicCache())
