"""Chooses the next token of each codebook: temperature, then top-k, then top-p, as transformers does.

Works on the CPU in float32 whatever device the model is on, so that a seed does not depend on the device's
random numbers. Randomness comes in as a generator and from nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn. `top_k` 0 and `top_p` 0 or 1 mean off; `greedy` takes the likeliest instead."""

    temperature: float = 1.0
    top_k: int = 250
    top_p: float = 0.0
    greedy: bool = False


def guided(logits: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance: logits [2, K, V], with prompt and without, to [K, V]; one row passes through.

    Source: `ClassifierFreeGuidanceLogitsProcessor` of transformers.
    """
    if logits.shape[0] == 1:
        return logits[0]
    conditional, unconditional = logits
    result: Tensor = unconditional + (conditional - unconditional) * guidance_scale
    return result


def warped(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits [K, V] with temperature applied and the tokens that top-k and top-p rule out at minus infinity.

    Source: `TemperatureLogitsWarper`, `TopKLogitsWarper`, `TopPLogitsWarper` of transformers, in this order.
    """
    if sampling.temperature != 1.0:
        logits = logits / sampling.temperature
    if sampling.top_k > 0:
        weakest_kept = torch.topk(logits, min(sampling.top_k, logits.shape[-1])).values[:, -1:]  # [K, 1]
        logits = logits.masked_fill(logits < weakest_kept, -torch.inf)
    if 0.0 < sampling.top_p < 1.0:
        ascending, order = torch.sort(logits)
        ruled_out = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - sampling.top_p
        ruled_out[:, -1] = False  # the likeliest token always stays
        logits = logits.masked_fill(ruled_out.scatter(1, order, ruled_out), -torch.inf)
    return logits


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """Next token [K] of each codebook from logits [K, V] (float32, CPU).

    Every codebook draws at every step, also where the delay pattern will not use it: that keeps the sequence
    of random numbers the same as in transformers, and the same whatever the length of the take.
    """
    if sampling.greedy:
        return logits.argmax(dim=-1)
    probabilities = warped(logits, sampling).softmax(dim=-1)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
