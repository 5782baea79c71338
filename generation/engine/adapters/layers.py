"""The modules that stand in for those of the base while adapters are attached, made of peft's LoRA layers.

The only module that imports peft, and the runner imports it with the first adapter: that takes a fraction of a
second which a runner without adapters need not spend. Reads no file and decides no names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import dispatch_default
from torch import Tensor, nn

from generation.engine.adapters.branch import twin_of
from generation.engine.adapters.fit import LowRank
from generation.engine.packed import HeldLinear

#: peft's class of that name, whose members have other types in each of its subclasses.
LoraLayer = Any


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one adapter contributes to one module."""

    weights: LowRank
    use_rslora: bool
    strength: float


def lora_module(base: nn.Module, shares: Sequence[Share]) -> nn.Module:
    """A module that answers `base(x)` plus each share's strength times its difference to that.

    `base` is wrapped and not changed. One share at strength 1 gives what peft gives, bit for bit. The weights are
    held in float32 whatever the base's dtype, as peft holds those it loads: they are few, and rounded to bfloat16
    a weak adapter would lose most of what it learned.
    """
    rows, columns, device = _shape(base)
    kinds = tuple(
        (share.weights.rank, share.weights.alpha, share.use_rslora, share.weights.magnitude is not None)
        for share in shares
    )
    layer = _copy_of(_empty_layer(isinstance(base, nn.Embedding), rows, columns, kinds))
    layer.base_layer = base
    for number, share in enumerate(shares):
        _fill(layer, _name(number), share.weights, device)
    if any(share.weights.magnitude is not None for share in shares):
        return Rescaled(layer, [share.strength for share in shares])
    # LoRA without magnitudes is linear in its scaling: peft's layer does the rest.
    for number, share in enumerate(shares):
        layer.scaling[_name(number)] *= share.strength
    module: nn.Module = layer
    return module


def _shape(base: nn.Module) -> tuple[int, int, torch.device]:
    """Rows and columns of a module's weight, [out, in] or [tokens, out] of an embedding, and where it is."""
    if isinstance(base, HeldLinear):
        return base.out_features, base.in_features, base.held[0].device
    weight = base.get_parameter("weight")
    return weight.shape[0], weight.shape[1], weight.device


def _name(number: int) -> str:
    return f"adapter{number}"


# peft takes a millisecond for a layer, a network has hundreds, and few differ.
@lru_cache(maxsize=64)
def _empty_layer(
    is_embedding: bool, rows: int, columns: int, kinds: tuple[tuple[int, float, bool, bool], ...]
) -> LoraLayer:
    """peft's layer with room for each adapter's weights: rank, alpha, whether rsLoRA and whether DoRA, of each.

    It stands around a module of that shape without memory, and is a pattern to be copied.
    """
    layer: LoraLayer = None
    with torch.device("meta"):
        base = nn.Embedding(rows, columns) if is_embedding else nn.Linear(columns, rows)
        for number, (rank, alpha, use_rslora, use_dora) in enumerate(kinds):
            config = LoraConfig(use_rslora=use_rslora, use_dora=use_dora, inference_mode=True)
            sizes: dict[str, Any] = {"r": rank, "lora_alpha": alpha}
            if layer is None:
                layer = dispatch_default(base, _name(number), config, **sizes)
            else:
                layer.update_layer(_name(number), config=config, **sizes)
    layer.set_adapter([_name(number) for number in range(len(kinds))], inference_mode=True)
    return layer


def _copy_of(module: Any) -> Any:
    """A module with the same parameters in modules of its own, all the way down."""
    copy = twin_of(module)
    for name, child in module.named_children():
        copy._modules[name] = _copy_of(child)
    return copy


def _fill(layer: LoraLayer, name: str, weights: LowRank, device: torch.device) -> None:
    def parameter(tensor: Tensor) -> nn.Parameter:
        return nn.Parameter(tensor.to(device, torch.float32), requires_grad=False)

    if weights.is_embedding:
        layer.lora_embedding_A[name] = parameter(weights.a)
        layer.lora_embedding_B[name] = parameter(weights.b)
    else:
        layer.lora_A[name].weight = parameter(weights.a)
        layer.lora_B[name].weight = parameter(weights.b)
    if weights.magnitude is not None:
        layer.lora_magnitude_vector[name].weight = parameter(weights.magnitude)


class Rescaled(nn.Module):
    """A module under adapters of which at least one is DoRA, at any strengths.

    peft computes the norm of base plus adapter anew at each forward pass, from a product as large as the base's
    weight; here that happens once. Strength multiplies the difference to the base, where peft's own scale
    would also move the norm. Source: DoRA (Liu et al. 2024), section 4, and `peft.tuners.lora.dora`.
    """

    def __init__(self, layer: LoraLayer, strengths: Sequence[float]) -> None:
        super().__init__()
        self.layer = layer
        self._strengths = {_name(number): strength for number, strength in enumerate(strengths)}
        self._is_embedding = bool(layer.lora_embedding_A)
        self._rescaling = {
            name: _rescaling(layer, name) for name in self._strengths if name in layer.lora_variant
        }

    def forward(self, x: Tensor) -> Tensor:
        """The base's answer, changed by each adapter."""
        base: Tensor = self.layer.base_layer(x)
        if list(self._strengths.values()) == [1.0]:
            return self._at_one(next(iter(self._strengths)), x, base).to(base.dtype)
        result = base
        for name, strength in self._strengths.items():
            result = result + strength * (self._at_one(name, x, base) - base)
        return result.to(base.dtype)

    def _at_one(self, name: str, x: Tensor, base: Tensor) -> Tensor:
        """What the base and this adapter alone answer, in the order of operations that peft has."""
        layer = self.layer
        if self._is_embedding:
            change = layer._embed(x, layer.lora_embedding_A[name].T) @ layer.lora_embedding_B[name].T
        else:
            down, up = layer.lora_A[name], layer.lora_B[name]
            change = up(down(x.to(down.weight.dtype)))
        rescaling = self._rescaling.get(name)
        result: Tensor
        if rescaling is None:
            result = base + change * layer.scaling[name]
        elif self._is_embedding:
            result = rescaling * base + rescaling * change * layer.scaling[name]
        else:
            bias = layer.base_layer.bias
            unbiased = base if bias is None else base - bias
            result = base + ((rescaling - 1) * unbiased + rescaling * change * layer.scaling[name])
        return result


@torch.no_grad()
def _rescaling(layer: LoraLayer, name: str) -> Tensor:
    """[1, out], or [out] of an embedding: DoRA's magnitude over the norm of base plus adapter."""
    dora, weight = layer.lora_magnitude_vector[name], layer.base_layer.weight.float()
    if layer.lora_embedding_A:
        product = dora.get_lora_weight(
            lora_A=layer.lora_embedding_A[name].T, lora_B=layer.lora_embedding_B[name].T
        )
    else:
        product = dora.get_lora_weight(lora_A=layer.lora_A[name], lora_B=layer.lora_B[name])
    norm = dora.get_weight_norm(weight=weight, lora_weight=product, scaling=layer.scaling[name])
    rescaling: Tensor = dora.weight / norm
    return rescaling if layer.lora_embedding_A else rescaling.view(1, -1)
