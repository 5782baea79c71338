"""How far a faster way of computing is from float32: the next token's distribution of both, along the same take."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from generation.engine.checkpoint import LoadedModel
from generation.engine.decode import CodesRequest, generate_codes
from generation.engine.delay import DelayPattern
from generation.engine.network import DecoderStep
from generation.engine.prompt import encode_prompt
from generation.engine.sampling import Sampling

#: A way of computing below these is not offered: most first choices are the same, and what is lost is little beside
#: what sampling at temperature 1 adds by itself.
LEAST_TOP_1 = 0.90
MOST_DIVERGENCE = 0.03
_SAMPLING = Sampling(temperature=1.0, top_k=250, top_p=0.0, greedy=False)


@dataclass(frozen=True)
class Agreement:
    """`divergence` is the mean Kullback-Leibler divergence from float32 in nats, `top_1` the share of equal first choices."""

    divergence: float
    top_1: float
    tokens: int

    @property
    def is_good(self) -> bool:
        """Whether it may be offered."""
        return self.divergence <= MOST_DIVERGENCE and self.top_1 >= LEAST_TOP_1


@dataclass(frozen=True)
class Reference:
    """A take and what float32 says of each of its tokens: codes [K, T], log probabilities [N, V]."""

    prompt: str
    codes: Tensor
    wanted: Tensor


def reference(exact: LoadedModel, *, prompt: str, frames: int) -> Reference:
    """A take of `frames` that `exact` makes, for every model that has the same weights."""
    request = CodesRequest(
        conditioning=encode_prompt(exact, prompt, 3.0), frames=frames, seed=0, sampling=_SAMPLING
    )
    codes = generate_codes(exact, request, on_progress=lambda done: None, should_stop=lambda: False)
    return Reference(prompt, codes, _log_probabilities(exact, prompt, codes))


def agreement(exact: Reference, other: LoadedModel) -> Agreement:
    """A model along the take of another that has the same weights."""
    wanted, got = exact.wanted, _log_probabilities(other, exact.prompt, exact.codes)
    divergence = (wanted.exp() * (wanted - got)).sum(-1).mean()
    return Agreement(
        divergence=float(divergence),
        top_1=float((wanted.argmax(-1) == got.argmax(-1)).float().mean()),
        tokens=len(wanted),
    )


@torch.inference_mode()
def _log_probabilities(model: LoadedModel, prompt: str, codes: Tensor) -> Tensor:
    """Of each token of the take but the pattern's gaps, by the engine's own steps: [N, V] in float64 on the CPU."""
    pattern = DelayPattern(codebooks=model.codebooks, channels=model.channels)
    ids = pattern.apply(codes, model.pad_token)  # [K, L]
    step, states = DecoderStep(model), encode_prompt(model, prompt, 1.0).states_at(0)
    memory = step.begin(states, ids.shape[1])
    if step.is_prefixed:
        step.read(ids[:, :0], memory, states)
    logits = [step(each[None], [memory])[0] for each in ids.T[:-1]]  # each [K, V], for the token after
    is_token = pattern.open_positions(codes.shape[1])[:, 1:]
    return torch.stack(logits, dim=1).cpu()[is_token].double().log_softmax(dim=-1)
