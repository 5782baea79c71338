"""Turns a prompt into what the decoder attends to: tokens, text encoder, projection, the promptless row.

Knows nothing of the step loop or of audio.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from generation.engine.checkpoint import LoadedModel
from generation.engine.errors import EngineError
from generation.engine.protocol import INVALID_REQUEST, MAX_PROMPT_TOKENS


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """What the decoder attends to: one row, and with guidance one of zeros that stands for no prompt."""

    states: Tensor  # [R, S, H] in the model's dtype, on its device
    guidance_scale: float


@torch.inference_mode()
def encode_prompt(model: LoadedModel, prompt: str, guidance_scale: float) -> Conditioning:
    """Encode one prompt; `guidance_scale` 1 means no guidance and one row instead of two.

    Raises EngineError INVALID_REQUEST when the prompt has more than MAX_PROMPT_TOKENS tokens.
    Source: `_prepare_text_encoder_kwargs_for_generation` and `forward` of transformers' MusicGen.
    """
    token_ids = model.tokenizer(prompt, return_tensors="pt")["input_ids"]  # [1, S]
    if token_ids.shape[1] > MAX_PROMPT_TOKENS:
        raise EngineError(
            INVALID_REQUEST,
            f"The prompt is {token_ids.shape[1]} tokens long; the model reads at most {MAX_PROMPT_TOKENS}. "
            "Shorten it.",
        )
    states = model.network.text_encoder(
        input_ids=token_ids.to(model.device)
    ).last_hidden_state  # [1, S, H_text]
    if guidance_scale != 1.0:
        states = torch.cat([states, torch.zeros_like(states)])  # [2, S, H_text]
    # Absent where the text encoder is as wide as the decoder.
    if (projection := getattr(model.network, "enc_to_dec_proj", None)) is not None:
        states = projection(states)  # [R, S, H]
    states[1:] = 0.0  # the projection's bias made the row without a prompt non-zero
    return Conditioning(states=states, guidance_scale=guidance_scale)
