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


def agreement(exact: LoadedModel, other: LoadedModel, *, prompt: str, frames: int) -> Agreement:
    """Both models, which have the same weights, along a take of `frames` that `exact` makes."""
    request = CodesRequest(
        conditioning=encode_prompt(exact, prompt, 3.0), frames=frames, seed=0, sampling=_SAMPLING
    )
    codes = generate_codes(exact, request, on_progress=lambda done: None, should_stop=lambda: False)
    wanted, got = (_log_probabilities(model, prompt, codes) for model in (exact, other))  # [N, V]
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
