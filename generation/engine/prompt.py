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
class Melody:
    """The pitches that a melody model reads before the words: one row, and with guidance one of no melody."""

    pitches: Tensor  # [R, C, H] of the whole clip, in the model's dtype, on its device
    length: int  # of them are read
    per_frame: float  # of them for one frame of a take

    def at(self, frame: int) -> Tensor:
        """What a window that begins at this frame of a take reads, [R, length, H]; a clip that ended begins again."""
        first = round(frame * self.per_frame)
        return self.pitches[:, torch.arange(first, first + self.length) % self.pitches.shape[1]]


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """What the decoder attends to: one row, and with guidance one of zeros that stands for no prompt."""

    text: Tensor  # [R, S, H] in the model's dtype, on its device
    guidance_scale: float
    melody: Melody | None = None  # of a melody model, also without a clip

    @property
    def rows(self) -> int:
        """Two with guidance."""
        return self.text.shape[0]

    @property
    def length(self) -> int:
        """States in each row."""
        return self.text.shape[1] + (self.melody.length if self.melody else 0)

    def states_at(self, frame: int) -> Tensor:
        """States [R, S, H] of a window that begins at this frame of a take."""
        return self.text if self.melody is None else torch.cat([self.melody.at(frame), self.text], dim=1)


@torch.inference_mode()
def encode_prompt(
    model: LoadedModel, prompt: str, guidance_scale: float, pitches: Tensor | None = None
) -> Conditioning:
    """Encode one prompt; `guidance_scale` 1 means no guidance and one row instead of two.

    `pitches` [T, bins] are a clip's, for a melody model. Raises EngineError INVALID_REQUEST when the prompt has more
    than MAX_PROMPT_TOKENS tokens. Source: `_prepare_text_encoder_kwargs_for_generation` and `forward` of transformers'
    MusicGen, and `_prepare_encoder_hidden_states_kwargs_for_generation` of its MusicGen Melody.
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
    return Conditioning(
        text=states, guidance_scale=guidance_scale, melody=_melody(model, pitches, rows=states.shape[0])
    )


def _melody(model: LoadedModel, pitches: Tensor | None, *, rows: int) -> Melody | None:
    if model.chroma is None:
        return None
    none = torch.zeros(1 if pitches is None else len(pitches), model.chroma.bins)
    none[:, 0] = 1.0
    states = torch.stack([none if pitches is None else pitches, none][:rows]).to(model.device, model.dtype)
    if (projection := getattr(model.network, "audio_enc_to_dec_proj", None)) is not None:
        states = projection(states)  # [R, T, H]
    return Melody(
        pitches=states,
        length=model.chroma.frames,
        per_frame=model.chroma.sample_rate / model.chroma.hop / model.frame_rate,
    )
