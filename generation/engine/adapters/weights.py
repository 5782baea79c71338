"""Reads the tensors of adapters from safetensors files and keeps those used last, within a bound of bytes.

Checks that a file is the one that was imported. Knows no network and no peft.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from generation.engine.errors import EngineError
from generation.engine.protocol import ADAPTER_BROKEN, ADAPTER_NOT_FOUND, AdapterUse

#: Most memory that the tensors of adapters that are not in use may take, in bytes.
CACHE_BYTES: Final = 512 * 1024**2


@dataclass(frozen=True, kw_only=True)
class AdapterWeights:
    """All tensors of one adapter as its file holds them, on the CPU, by the names they have there."""

    tensors: dict[str, Tensor]

    @property
    def held_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(each.numel() * each.element_size() for each in self.tensors.values())


class WeightsCache:
    """The weights of the adapters used last. An adapter larger than the bound is read anew for each use."""

    def __init__(self, bound_bytes: int = CACHE_BYTES) -> None:
        self._bound_bytes = bound_bytes
        self._held: OrderedDict[str, AdapterWeights] = (
            OrderedDict()
        )  # by hash of the file, least recent first

    @property
    def held_bytes(self) -> int:
        """Bytes of everything that is kept."""
        return sum(each.held_bytes for each in self._held.values())

    def get(self, use: AdapterUse) -> AdapterWeights:
        """The weights of one adapter. Raises EngineError ADAPTER_NOT_FOUND and ADAPTER_BROKEN."""
        if (held := self._held.get(use.sha256)) is not None:
            self._held.move_to_end(use.sha256)
            return held
        weights = read_weights(use)
        self._held[use.sha256] = weights
        while self._held and self.held_bytes > self._bound_bytes:
            self._held.popitem(last=False)
        return weights


def read_weights(use: AdapterUse) -> AdapterWeights:
    """Read and check one file. Raises EngineError ADAPTER_NOT_FOUND and ADAPTER_BROKEN."""
    try:
        # Read whole rather than mapped: a file that is cut short while it is mapped would end the process.
        content = Path(use.path).read_bytes()
    except OSError as error:
        raise EngineError(
            ADAPTER_NOT_FOUND,
            f"The file of adapter {use.name!r} is missing or cannot be read. Import the adapter again.",
            f"{type(error).__name__}: {error}",
        ) from error
    if (found := hashlib.sha256(content).hexdigest()) != use.sha256:
        raise EngineError(
            ADAPTER_BROKEN,
            f"The file of adapter {use.name!r} is not the one that was imported. Import the adapter again.",
            f"sha256 is {found}, expected {use.sha256}",
        )
    try:
        tensors = safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise _broken(use, "is no sound safetensors file", f"{type(error).__name__}: {error}") from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise _broken(use, "holds numbers that are no weights", f"{name} is {tensor.dtype}")
        if not torch.isfinite(tensor.float()).all():
            raise _broken(use, "holds values that are not numbers", name)
    return AdapterWeights(tensors=tensors)


def _broken(use: AdapterUse, what: str, detail: str) -> EngineError:
    message = f"Adapter {use.name!r} is broken: its file {what}. Ask for another copy and import that."
    return EngineError(ADAPTER_BROKEN, message, detail)
