"""What an adapter becomes on one network: its tensors, each at the module where it acts.

Plain records between reading an adapter and attaching it. Knows no peft.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """LoRA weights of one module: [r, in] and [out, r] of a linear one, [r, tokens] and [out, r] of an embedding."""

    a: Tensor
    b: Tensor
    magnitude: Tensor | None  # [out], of DoRA
    is_embedding: bool
    rank: int
    alpha: float


@dataclass(frozen=True, kw_only=True)
class FittedAdapter:
    """An adapter whose every tensor has its place in a network. Paths are those of the whole network."""

    name: str
    low_rank: dict[str, LowRank]  # by path of the module
    saved: dict[str, Tensor]  # trained weights that stand in for those of the base, by path of the parameter
    use_rslora: bool
    tensor_count: int
    notes: list[str]  # sentences for people
