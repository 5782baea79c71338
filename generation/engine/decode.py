"""The step loop: one step of the decoder predicts one token of each codebook, until all frames are complete.

Runs our own loop over the library's decoder modules; `MusicgenForConditionalGeneration.generate` is its
oracle in tests. Knows nothing of files, processes or the codec.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import EncoderDecoderCache

from generation.engine.cache import request_cache
from generation.engine.checkpoint import LoadedModel
from generation.engine.delay import DelayPattern
from generation.engine.errors import EngineError
from generation.engine.prompt import Conditioning
from generation.engine.protocol import NON_FINITE
from generation.engine.sampling import Sampling, choose, guided


@dataclass(frozen=True, kw_only=True)
class CodesRequest:
    """Everything that decides the codes of one take, beside the model."""

    conditioning: Conditioning
    frames: int
    seed: int
    sampling: Sampling


@torch.inference_mode()
def generate_codes(
    model: LoadedModel,
    request: CodesRequest,
    *,
    on_progress: Callable[[int], None],
    should_stop: Callable[[], bool],
) -> Tensor:
    """Codes [K, T] on the CPU: all `request.frames` of them, or those complete once `should_stop()` is true.

    `on_progress` receives the number of complete frames after each step; `should_stop` is asked before each
    step. Raises EngineError NON_FINITE when the model's output is not a number.
    """
    pattern = DelayPattern(codebooks=model.codebooks, channels=model.channels)
    generator = torch.Generator().manual_seed(request.seed)
    steps = pattern.steps_for(request.frames)
    open_positions = pattern.open_positions(request.frames)  # [K, 1 + steps]
    ids = torch.full_like(open_positions, model.pad_token, dtype=torch.long)  # [K, 1 + steps]

    decoder = _Decoder(model, request.conditioning, steps)
    done = 0
    while done < steps and not should_stop():
        logits = decoder.step(ids[:, done])  # [R, K, V]
        scores = guided(logits.to("cpu", torch.float32), request.conditioning.guidance_scale)  # [K, V]
        if not scores.isfinite().all():
            raise EngineError(
                NON_FINITE,
                f"The model's output stopped being a number after {done} steps. Use float32 or bfloat16, or "
                "a lower guidance scale; if it stays, the checkpoint is damaged.",
                f"non-finite logits at step {done} of {steps}, {model.dtype}",
            )
        tokens = choose(scores, request.sampling, generator)  # [K]
        done += 1
        ids[:, done] = torch.where(open_positions[:, done], tokens, model.pad_token)
        on_progress(pattern.complete_frames(done))
    return pattern.undo(ids, pattern.complete_frames(done))


class _Decoder:
    """The decoder in the middle of one request: its modules, what it attends to, and its cache."""

    def __init__(self, model: LoadedModel, conditioning: Conditioning, capacity: int) -> None:
        causal_lm = model.network.decoder
        self._body = causal_lm.model.decoder
        self._heads = causal_lm.lm_heads
        self._states = conditioning.states  # [R, S, H]
        self._device = model.device
        # One look-up for the whole request: the library rebuilds its table at every step beyond its first
        # size. The argument is only asked for its length, [B, K, L] -> [L, H].
        self._positions = self._body.embed_positions(torch.empty(1, 1, capacity, device=model.device))
        self._cache: EncoderDecoderCache = request_cache(
            layers=len(self._body.layers),
            rows=self._states.shape[0],
            heads=causal_lm.config.num_attention_heads,
            head_size=causal_lm.config.hidden_size // causal_lm.config.num_attention_heads,
            capacity=capacity,
            device=model.device,
            dtype=model.dtype,
        )

    def step(self, tokens: Tensor) -> Tensor:
        """Logits [R, K, V] for the token after `tokens` [K]; all rows are fed the same tokens."""
        position = self._cache.get_seq_length()
        tokens = tokens.to(self._device)
        hidden = self._body.embed_tokens[0](tokens[0])  # [H]
        for embed, token in zip(self._body.embed_tokens[1:], tokens[1:], strict=True):
            hidden = hidden + embed(token)
        hidden = hidden + self._positions[position]
        hidden = hidden.expand(self._states.shape[0], 1, -1)  # [R, 1, H]
        for layer in self._body.layers:
            # No masks: one query sees all earlier positions, and no prompt is padded. The row without a
            # prompt attends to zeros, which the bias-free attention turns into exactly nothing, masked or
            # not.
            hidden = layer(hidden, encoder_hidden_states=self._states, past_key_values=self._cache)
        hidden = self._body.layer_norm(hidden)  # [R, 1, H]
        return torch.cat([head(hidden) for head in self._heads], dim=1)
