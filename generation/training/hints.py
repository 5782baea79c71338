"""Questions that the language model has to answer beside its next code while it trains: tempo, place in the bar, key.

A number in a prompt hardly moves the loss of the codes: over five seconds most is told by what was heard before. Asked for
it outright, and in the middle of the network, the model keeps what the number says where it can still place a beat by it.
The answers are forgotten after the training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .composer import SCALES, SIXTEENTHS, STEPS_PER_BAR, TONICS

KEYS = [f"{tonic} {mode}" for tonic, mode in product(TONICS, SCALES)]
#: How much the answers count beside the codes.
WEIGHT = 0.15


class Hints(nn.Module):
    """Small heads on hidden states of a decoder that is `width` wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        tempos, places = len(SIXTEENTHS), STEPS_PER_BAR
        self.frame = nn.Linear(width, tempos + places)
        self.caption = nn.Linear(width, tempos + len(KEYS))
        self.early = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, tempos))
        self.middle = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, tempos + places))

    def forward(
        self,
        layers: Sequence[Tensor],
        described: Tensor,
        text_mask: Tensor,
        captions: Sequence[str | None],
        sixteenths: Tensor,
    ) -> Tensor:
        """How wrong the answers are, in nats, all added up.

        `layers` are the hidden states [B, L, H] from the first layer's input to the last one's output, `described` the
        text [B, S, H] as the decoder reads it, `sixteenths` [B] the length of a sixteenth in frames. A row whose
        caption is None did not hear one.
        """
        tempo = sixteenths - SIXTEENTHS[0]
        asked = len(layers) - 1
        early, middle, last = (layers[n].float() for n in (asked // 3, asked * 2 // 3, asked))
        frames = torch.arange(last.shape[1], device=last.device)
        place = frames[None] // sixteenths[:, None] % STEPS_PER_BAR  # [B, L]; every piece begins with a bar
        loss = self._of_frames(self.early(early), tempo)
        loss = loss + self._of_frames(self.middle(middle), tempo, place)
        loss = loss + self._of_frames(self.frame(last), tempo, place)
        pooled = (described.float() * text_mask[..., None]).sum(1) / text_mask.sum(1, keepdim=True)
        said = self.caption(pooled)
        for answers, wanted in (
            (said[:, : len(SIXTEENTHS)], torch.where(_names_tempo(captions, tempo), tempo, -1)),
            (said[:, len(SIXTEENTHS) :], _named_key(captions, tempo)),
        ):
            if (wanted >= 0).any():
                loss = loss + cross_entropy(answers, wanted, ignore_index=-1)
        return loss

    def _of_frames(self, answers: Tensor, tempo: Tensor, place: Tensor | None = None) -> Tensor:
        """Answers [B, L, A]: the tempo of each frame and, where it is asked for, the place in the bar."""
        tempos = len(SIXTEENTHS)
        length = answers.shape[1]
        loss = cross_entropy(answers[..., :tempos].flatten(0, 1), tempo.repeat_interleave(length))
        if place is not None:
            loss = loss + cross_entropy(answers[..., tempos:].flatten(0, 1), place.flatten())
        return loss


def _names_tempo(captions: Sequence[str | None], like: Tensor) -> Tensor:
    return torch.tensor(
        [caption is not None and "bpm" in caption for caption in captions], device=like.device
    )


def _named_key(captions: Sequence[str | None], like: Tensor) -> Tensor:
    """Index of the key that each caption names, -1 where it names none."""
    return torch.tensor(
        [
            next((n for n, key in enumerate(KEYS) if caption is not None and key in caption), -1)
            for caption in captions
        ],
        device=like.device,
    )
