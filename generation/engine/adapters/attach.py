"""Builds the network of a job: the base with exactly the adapters the job names, each at its strength.

The base is shared and never written to, so detaching is forgetting the other network, and a failure half way
leaves nothing behind.
"""

from __future__ import annotations

import dataclasses
import gc
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from generation.engine.adapters.branch import branched, twin_of
from generation.engine.adapters.fit import FittedAdapter
from generation.engine.adapters.fitting import fitted
from generation.engine.adapters.weights import WeightsCache
from generation.engine.checkpoint import LoadedModel
from generation.engine.errors import EngineError
from generation.engine.packed import HeldLinear
from generation.engine.protocol import ADAPTER_UNSUPPORTED, AdapterUse

if TYPE_CHECKING:
    from generation.engine.adapters.layers import Share
    from generation.engine.families import Network


class Attachment:
    """The adapters of a runner: those read last, and the network of the job before with what was attached to it.

    Belongs to the thread that generates.
    """

    def __init__(self) -> None:
        self.attached: list[FittedAdapter] = []
        self._cache = WeightsCache()
        self._key: object = None
        self._model: LoadedModel | None = None

    def model_for(self, base: LoadedModel, uses: Sequence[AdapterUse]) -> LoadedModel:
        """`base` with exactly these adapters; `base` itself where there are none or all have strength 0.

        Raises EngineError with one of the ADAPTER codes, and then leaves nothing attached.
        """
        acting = [use for use in uses if use.strength != 0.0]
        key = (id(base), [(use.sha256, use.config, use.strength) for use in acting])
        if self._model is not None and key == self._key:
            return self._model
        self._key = self._model = None  # its memory first, then the next one's
        self.attached = []
        if not acting:
            return base
        adapters = [fitted(base.network, use, self._cache.get(use)) for use in acting]
        strengths = [use.strength for use in acting]
        self._model = dataclasses.replace(base, network=adapted_network(base.network, adapters, strengths))
        self._key, self.attached = key, adapters
        return self._model


def adapted_network(
    network: Network,
    adapters: Sequence[FittedAdapter],
    strengths: Sequence[float],
) -> Network:
    """A network that differs from `network` by the sum of each adapter's difference times its strength.

    Raises EngineError ADAPTER_UNSUPPORTED for adapters that cannot act together.
    """
    from generation.engine.adapters.layers import Share, lora_module

    _settle()
    saved: defaultdict[str, list[tuple[Tensor, float]]] = defaultdict(list)
    shares: defaultdict[str, list[Share]] = defaultdict(list)
    for adapter, strength in zip(adapters, strengths, strict=True):
        for path, tensor in adapter.saved.items():
            saved[path].append((tensor, strength))
        for path, weights in adapter.low_rank.items():
            shares[path].append(Share(weights=weights, use_rslora=adapter.use_rslora, strength=strength))
    replacements: dict[str, nn.Module] = {}
    for path, versions in saved.items():
        owner, _, name = path.rpartition(".")
        if owner not in replacements:
            module = network.get_submodule(owner)
            replacements[owner] = module.unpacked() if isinstance(module, HeldLinear) else twin_of(module)
        base: Tensor = getattr(network.get_submodule(owner), name)
        replacements[owner].register_parameter(
            name, nn.Parameter(_mixed(base, versions), requires_grad=False)
        )
    for path, of_module in shares.items():
        if path in replacements and any(share.weights.magnitude is not None for share in of_module):
            raise _cannot_act_together(adapters, path)
        replacements[path] = lora_module(replacements.get(path) or network.get_submodule(path), of_module)
    return branched(network, replacements)


@cache
def _settle() -> None:
    """Spare what is there before the first adapter from later rounds of the garbage collector.

    The libraries and the base are some 400,000 objects that stay. Layers come and go by the thousand with each
    change of adapters, and a full round that they set off took up to ten times as long as the change itself.
    """
    gc.collect()
    gc.freeze()


@torch.no_grad()
def _mixed(base: Tensor, versions: Sequence[tuple[Tensor, float]]) -> Tensor:
    """The base's weight plus each version's difference times its strength. One version at strength 1 is itself."""
    if len(versions) == 1 and versions[0][1] == 1.0:
        return versions[0][0].to(base.device, base.dtype, copy=True)
    result = base.float()
    for tensor, strength in versions:
        result = result + strength * (tensor.to(base.device, torch.float32) - base.float())
    return result.to(base.dtype)


def _cannot_act_together(adapters: Sequence[FittedAdapter], path: str) -> EngineError:
    names = [
        repr(adapter.name)
        for adapter in adapters
        if path in adapter.low_rank or any(name.startswith(f"{path}.") for name in adapter.saved)
    ]
    return EngineError(
        ADAPTER_UNSUPPORTED,
        f"Adapters {' and '.join(names)} cannot act together: one replaces a module whose weights the other "
        "rescales. Use one of them at a time.",
        path,
    )
