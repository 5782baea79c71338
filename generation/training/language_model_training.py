"""Trains MusicGen's decoder and its text encoder on captioned codec tokens: delay pattern, caption dropout, bfloat16.

`captioned_loss` serves adapters as well. Knows nothing of audio: it sees tokens only."""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import MusicgenConfig, MusicgenForConditionalGeneration, T5Tokenizer

from generation.engine.delay import DelayPattern

from .checkpoint import model_config, new_model
from .codec_training import SECONDS_BETWEEN_SAVES, load_codec, storable_scale
from .hints import WEIGHT as HINTS_WEIGHT
from .hints import Hints
from .tokens import Batch, TokenPool

CAPTION_DROPOUT = 0.15
#: Frames of one training row. The shortest are openings: what goes on is told by what was heard before, so it is the
#: first two seconds that teach what the words mean (two beats of the slowest tempo), and a step of openings has the most
#: captions.
LENGTHS = (100, 250, 500, 1000)
TOKENS_PER_STEP = 1000  # frames of all rows together


def delayed(codes: Tensor, pad_token: int, channels: int = 1) -> Tensor:
    """Codes [B, K, T] as the ids [B, K, L] that the decoder reads, shifted by MusicGen's delay pattern."""
    pattern = DelayPattern(codebooks=codes.shape[1], channels=channels)
    return torch.stack([pattern.apply(row, pad_token) for row in codes])


class Reading(NamedTuple):
    """What the model makes of codes and their captions: hidden states [B, L - 1, H] from the first layer's input to the
    last one's output, the text as the decoder reads it [B, S, H], and the ids that were read [B, K, L]."""

    layers: tuple[Tensor, ...]
    described: Tensor
    ids: Tensor


def read(
    model: MusicgenForConditionalGeneration, codes: Tensor, text: Tensor, text_mask: Tensor, keep: Tensor
) -> Reading:
    """Read codes [B, K, T] given captions [B, S].

    Rows with `keep` [B] 0 hear no caption, as in the unguided half of classifier-free guidance.
    """
    config = model.config.decoder
    described = model.text_encoder(input_ids=text, attention_mask=text_mask).last_hidden_state  # [B, S, D]
    described = model.enc_to_dec_proj(described) * (text_mask * keep[:, None])[..., None]
    ids = delayed(codes, config.pad_token_id, config.audio_channels)
    layers = model.decoder.model.decoder(
        input_ids=ids[..., :-1].flatten(0, 1),
        encoder_hidden_states=described,
        encoder_attention_mask=text_mask,
        use_cache=False,
        output_hidden_states=True,
    ).hidden_states
    return Reading(layers, described, ids)


def book_losses(model: MusicgenForConditionalGeneration, reading: Reading) -> Tensor:
    """Cross-entropy in nats of each codebook, [K]."""
    pad_token = model.config.decoder.pad_token_id
    return torch.stack(
        [
            cross_entropy(
                head(reading.layers[-1]).float().flatten(0, 1),
                reading.ids[:, book, 1:].flatten(),
                ignore_index=pad_token,
            )
            for book, head in enumerate(model.decoder.lm_heads)
        ]
    )


@torch.no_grad()
def start_weights(model: MusicgenForConditionalGeneration) -> None:
    """Give the decoder a start for its width. The library's 0.02 leaves the codes a twentieth as loud as the sinusoidal
    positions added to them, and the first hundreds of steps are lost on turning them up."""
    for name, weight in model.decoder.named_parameters():
        if "embed_tokens" in name:
            weight.normal_(std=0.25)
        elif "out_proj" in name or "fc2" in name:
            weight.normal_(std=weight.shape[1] ** -0.5 / (2 * model.config.decoder.num_hidden_layers) ** 0.5)
        elif weight.ndim == 2:
            weight.normal_(std=(0.5 if "lm_heads" in name else 1.0) * weight.shape[1] ** -0.5)
    model.enc_to_dec_proj.weight.normal_(std=model.enc_to_dec_proj.weight.shape[1] ** -0.5)


def row_frames(rng: random.Random, progress: float) -> int:
    """Shorter rows first; long ones, which teach form and far positions, towards the end."""
    weights = (
        (0.3, 0.7, 0.0, 0.0)
        if progress < 0.5
        else (0.55, 0.22, 0.18, 0.05)
        if progress < 0.8
        else (0.45, 0.15, 0.3, 0.1)
    )
    return rng.choices(LENGTHS, weights)[0]


def captioned_loss(
    model: MusicgenForConditionalGeneration,
    tokenizer: T5Tokenizer,
    batch: Batch,
    keep: list[bool],
    hints: Hints | None = None,
) -> Tensor:
    """`book_losses` in bfloat16, wherever the model is; the loss of `hints` is one more at their end, [K + 1]."""
    device = model.device
    text = tokenizer(batch.captions, return_tensors="pt", padding=True).to(device)
    kept = torch.tensor(keep, dtype=torch.float32, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        reading = read(model, batch.codes.to(device), text.input_ids, text.attention_mask, kept)
        losses = book_losses(model, reading)
        if hints is None:
            return losses
        heard = [caption if hears else None for caption, hears in zip(batch.captions, keep, strict=True)]
        told = hints(
            reading.layers, reading.described, text.attention_mask, heard, batch.sixteenths.to(device)
        )
        return torch.cat([losses, told[None]])


@torch.no_grad()
def unseen_loss(
    model: MusicgenForConditionalGeneration, tokenizer: T5Tokenizer, pool: TokenPool, *, captioned: bool
) -> list[float]:
    """Loss of each book on the same 16 five-second pieces outside the training seeds."""
    batch = pool.batch(random.Random(0), 16, LENGTHS[1])
    return _rounded(captioned_loss(model, tokenizer, batch, [captioned] * len(batch.captions)))


class LanguageModelTraining:
    """Decoder and text encoder of one run folder with their optimiser; goes on from the folder's checkpoint."""

    learning_rate = 1.5e-3

    def __init__(self, run: Path, config: MusicgenConfig | None = None, device: str = "cpu") -> None:
        torch.manual_seed(1)
        self.tokenizer = T5Tokenizer.from_pretrained(run / "tokenizer")
        self.pool, self.unseen = TokenPool(run / "tokens"), TokenPool(run / "tokens" / "unseen")
        self.model = new_model(config or model_config(len(self.tokenizer)))
        start_weights(self.model)
        self.model.audio_encoder.requires_grad_(False)
        self.model.to(torch.device(device))
        if self.model.device.type == "cpu":
            # A quarter faster than the fused kernel at this size on a CPU.
            self.model.decoder.set_attn_implementation("eager")
        self.trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        decayed = [weight for weight in self.trained if weight.ndim > 1]
        plain = [weight for weight in self.trained if weight.ndim == 1]
        self.optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
            betas=(0.9, 0.95),
        )
        self.hints = Hints(self.model.config.decoder.hidden_size).to(self.model.device)
        self.hint_optimiser = torch.optim.AdamW(self.hints.parameters(), 2e-3)
        self.saved, self.steps_done, self.restarted_at = run / "lm.pt", 0, 0
        if self.saved.exists():
            state = torch.load(self.saved, map_location=self.model.device, weights_only=True)
            self.model.load_state_dict(state["model"], strict=False)
            self.optimiser.load_state_dict(state["optimiser"])
            self.hints.load_state_dict(state["hints"])
            self.hint_optimiser.load_state_dict(state["hint_optimiser"])
            self.steps_done, self.restarted_at = state["step"], state.get("restarted_at", 0)

    def progress(self, steps: int) -> float:
        """How far the training is on its way to `steps`, 0 to 1; a restarted one began again in the middle."""
        share = (self.steps_done - self.restarted_at) / max(1, steps - self.restarted_at)
        return 0.5 + 0.5 * share if self.restarted_at else share

    def step(self, progress: float) -> Tensor:
        """One step, `progress` (0 to 1) of the way through the training. Gives the losses of books and hints, [K + 1]."""
        rng = random.Random(self.steps_done)  # the step's own, so that a resumed run sees no batch twice
        falling = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        for group in self.optimiser.param_groups:
            warm = min(1.0, (self.steps_done - self.restarted_at + 1) / 50)
            group["lr"] = self.learning_rate * warm * falling
        frames = row_frames(rng, progress)
        later = 0.0 if frames == LENGTHS[0] else 0.4
        batch = self.pool.batch(rng, TOKENS_PER_STEP // frames, frames, later)
        keep = [rng.random() >= CAPTION_DROPOUT for _ in batch.captions]
        losses = captioned_loss(self.model, self.tokenizer, batch, keep, self.hints)
        self.optimiser.zero_grad()
        self.hint_optimiser.zero_grad()
        torch.autograd.backward(losses[:-1].mean() + HINTS_WEIGHT * losses[-1])
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimiser.step()
        self.hint_optimiser.step()
        self.steps_done += 1
        return losses.detach()

    def save(self) -> None:
        """Write the checkpoint completely or not at all; the codec has its own."""
        weights = {
            name: weight
            for name, weight in self.model.state_dict().items()
            if not name.startswith("audio_encoder.")
        }
        state: dict[str, object] = {"model": weights, "optimiser": self.optimiser.state_dict()}
        state |= {"hints": self.hints.state_dict(), "hint_optimiser": self.hint_optimiser.state_dict()}
        state |= {"step": self.steps_done, "restarted_at": self.restarted_at}
        torch.save(state, self.saved.with_suffix(".new"))
        self.saved.with_suffix(".new").replace(self.saved)


def train_language_model(run: Path, steps: int, *, restart: bool = False, device: str = "cpu") -> None:
    """Train, or go on training, the language model in `run` to `steps` steps; losses go to `lm.jsonl` there.

    `restart` lifts the learning rate of a finished training to half its height and lets it fall again.
    """
    training = LanguageModelTraining(run, device=device)
    if restart:
        training.restarted_at = training.steps_done
    began = saved_at = time.monotonic()
    recent: list[Tensor] = []
    while training.steps_done < steps:
        recent.append(training.step(training.progress(steps)))
        done, now = training.steps_done, time.monotonic()
        last = done == steps
        if done % 50 == 0 or last:
            facts: dict[str, object] = {
                "step": done,
                "seconds": round(now - began, 1),
                "shards": len(training.pool.shards),
                "losses": _rounded(torch.stack(recent).mean(0)),
            }
            recent.clear()
            training.pool.refresh()
            if done % 200 == 0 or last:
                for name, captioned in (("unseen", True), ("unseen_without_captions", False)):
                    facts[name] = unseen_loss(
                        training.model, training.tokenizer, training.unseen, captioned=captioned
                    )
            with (run / "lm.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(facts) + "\n")
        if last or now - saved_at > SECONDS_BETWEEN_SAVES:
            saved_at = now
            training.save()


def _rounded(losses: Tensor) -> list[float]:
    return [round(float(loss), 4) for loss in losses]


def assembled(
    run: Path, config: MusicgenConfig | None = None
) -> tuple[MusicgenForConditionalGeneration, T5Tokenizer]:
    """The whole model from the two training stages, ready to export."""
    tokenizer = T5Tokenizer.from_pretrained(run / "tokenizer")
    model = new_model(config or model_config(len(tokenizer))).eval()
    model.load_state_dict(
        torch.load(run / "lm.pt", map_location="cpu", weights_only=True)["model"], strict=False
    )
    model.audio_encoder.load_state_dict(load_codec(run, model.config.audio_encoder).state_dict())
    storable_scale(model.audio_encoder)
    return model, tokenizer
