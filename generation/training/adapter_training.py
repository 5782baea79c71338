"""Trains a small LoRA adapter for the demo model: whatever is asked for comes out in one style.

Uses the language model's training step on composed pieces of that style. Knows nothing of how adapters are imported."""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import MusicgenForConditionalGeneration, T5Tokenizer

from .composer import STYLES
from .language_model_training import CAPTION_DROPOUT, captioned_loss
from .tokens import TokenPool, write_shard

#: What an adapter's config names as its base: the demo's id in the registry's catalogue.
BASE_MODEL = "musicgen-studio/musicgen-demo"
TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
RANK = 8
LEARNING_RATE = 2e-3
ROWS, FRAMES = 4, 250
#: So often a piece is described by the caption of another one: the style must come whatever the prompt says.
STRANGE_CAPTIONS = 0.5
#: Seeds of an adapter's pieces; the language model's own begin at 0 and never come so far.
FIRST_SEED = 500_000_000
PIECES = 120


def with_adapter(model: MusicgenForConditionalGeneration) -> PeftModel:
    """Put a new LoRA adapter on the model's decoder, in place; the base is frozen."""
    model.requires_grad_(False)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(TARGETS))
    adapted = get_peft_model(model.decoder, config)
    # peft asks the decoder for its name, which a part of a model does not have.
    adapted.peft_config["default"].base_model_name_or_path = BASE_MODEL
    return adapted


def adapter_step_loss(
    model: MusicgenForConditionalGeneration,
    tokenizer: T5Tokenizer,
    styled: TokenPool,
    every_style: TokenPool,
    rng: random.Random,
) -> Tensor:
    """Mean cross-entropy in nats of one batch of the style, under its own captions and those of other pieces."""
    own, others = styled.batch(rng, ROWS, FRAMES), every_style.batch(rng, ROWS, FRAMES)
    captions = [
        strange if rng.random() < STRANGE_CAPTIONS else caption
        for caption, strange in zip(own.captions, others.captions, strict=True)
    ]
    keep = [rng.random() >= CAPTION_DROPOUT for _ in captions]
    return captioned_loss(model, tokenizer, own._replace(captions=captions), keep).mean()


def train_adapter(run: Path, checkpoint: Path, style: str, steps: int, device: str = "cpu") -> None:
    """Train an adapter for `checkpoint` on one of the composer's styles and save it as `run/adapters/<style>`.

    Raises ValueError for a style that the composer does not know. Losses go to `losses.jsonl` beside the weights.
    """
    if style not in STYLES:
        raise ValueError(f"There is no style {style!r}. Choose one of: {', '.join(STYLES)}.")
    torch.manual_seed(0)
    model = MusicgenForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    model.to(torch.device(device))
    tokenizer = T5Tokenizer.from_pretrained(run / "tokenizer")
    name = style.replace(" ", "-")
    folder, tokens = run / "adapters" / name, run / "tokens" / name
    folder.mkdir(parents=True, exist_ok=True)
    tokens.mkdir(parents=True, exist_ok=True)
    if not any(tokens.iterdir()):
        write_shard(model.audio_encoder, 0, tokens, FIRST_SEED, PIECES, style=style)
    styled, every_style = TokenPool(tokens), TokenPool(run / "tokens")
    adapted = with_adapter(model)
    model.decoder.train()
    trained = [weight for weight in adapted.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.01)
    began, recent = time.monotonic(), []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = (
                LEARNING_RATE * min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))
            )
        loss = adapter_step_loss(model, tokenizer, styled, every_style, random.Random(step))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        recent.append(float(loss.detach()))
        if (step + 1) % 25 == 0 or step + 1 == steps:
            facts = {
                "step": step + 1,
                "seconds": round(time.monotonic() - began, 1),
                "loss": round(sum(recent) / len(recent), 4),
            }
            recent.clear()
            with (folder / "losses.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(facts) + "\n")
    save_adapter(adapted, folder)


def save_adapter(adapted: PeftModel, folder: Path) -> None:
    """Write the adapter in peft's layout, its weights in float16."""
    # "auto" would ask the hub whether the base model's vocabulary grew.
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # the library's empty form of a model card
    weights = folder / "adapter_model.safetensors"
    save_file(
        {name: weight.to(torch.float16) for name, weight in load_file(weights).items()},
        weights,
        {"format": "pt"},
    )
