"""Composed pieces as codec tokens with captions: shards on disk, written once and read by the training.

Knows the codec and the composer, not the language model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import EncodecModel

from .captions import describe
from .checkpoint import train_tokenizer
from .codec_training import UNSEEN_SEEDS, encode, load_codec
from .composer import STEPS_PER_BAR, compose
from .synthesiser import render

CAPTIONS_PER_PIECE = 12
PIECES_PER_SHARD = 160


def shard_seconds(index: int) -> float:
    """Every fourth shard holds pieces as long as the longest take."""
    return 20.0 if index % 4 == 2 else 10.0


@torch.no_grad()
def write_shard(
    codec: EncodecModel,
    index: int,
    folder: Path,
    first_seed: int = 0,
    count: int = PIECES_PER_SHARD,
    **fixed: str,
) -> None:
    """Compose, render and encode one shard: {codes [N, K, T], captions: N lists, bars: N lengths in frames}.

    `fixed` is what `compose` shall not choose by itself, such as the style.
    """
    pieces = [
        compose(first_seed + index * PIECES_PER_SHARD + n, shard_seconds(index), **fixed)
        for n in range(count)
    ]
    codes = []
    for start in range(0, len(pieces), 2):  # two at a time stay in the cache
        audio = torch.stack([torch.from_numpy(render(piece)) for piece in pieces[start : start + 2]])
        with torch.autocast(codec.device.type, torch.bfloat16):
            codes.append(encode(codec, audio.to(codec.device)).to(torch.int16).cpu())
    captions = [[describe(piece, wording) for wording in range(CAPTIONS_PER_PIECE)] for piece in pieces]
    path = folder / f"shard-{index:04d}.pt"
    bars = [piece.sixteenth * STEPS_PER_BAR for piece in pieces]
    torch.save({"codes": torch.cat(codes), "captions": captions, "bars": bars}, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def write_tokens(run: Path, shards: int, device: str = "cpu") -> None:
    """Fill `run/tokens` up to `shards` shards, and `run/tokens/unseen` with one that training never reads."""
    codec = load_codec(run).to(torch.device(device))
    (run / "tokens" / "unseen").mkdir(parents=True, exist_ok=True)
    if not (run / "tokenizer").exists():
        wordings = (describe(compose(seed, 1.0), wording) for seed in range(8000) for wording in range(3))
        train_tokenizer(wordings).save_pretrained(run / "tokenizer")
    if not any((run / "tokens" / "unseen").iterdir()):
        write_shard(codec, 0, run / "tokens" / "unseen", UNSEEN_SEEDS, 48)
    for index in range(shards):
        if not (run / "tokens" / f"shard-{index:04d}.pt").exists():
            write_shard(codec, index, run / "tokens")


class Batch(NamedTuple):
    """Pieces of one length: codes [B, K, T], a caption each, and each one's sixteenth in frames, [B]."""

    codes: Tensor
    captions: list[str]
    sixteenths: Tensor


class TokenPool:
    """The shards on disk, read as they appear while another process still writes them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.shards = folder, dict[str, dict[str, Any]]()
        self.refresh()

    def refresh(self) -> None:
        """Read the shards that appeared since the last time."""
        for path in sorted(self.folder.glob("shard-*.pt")):
            if path.name not in self.shards:
                self.shards[path.name] = torch.load(path, weights_only=True)

    def batch(self, rng: random.Random, rows: int, frames: int, later_share: float = 0.4) -> Batch:
        """Random pieces; so large a share of them begins at a later bar."""
        fitting = [shard for shard in self.shards.values() if shard["codes"].shape[-1] >= frames]
        codes, captions, sixteenths = [], [], []
        for _ in range(rows):
            shard = rng.choice(fitting)
            piece = rng.randrange(len(shard["codes"]))
            bar = shard["bars"][piece]
            later = (shard["codes"].shape[-1] - frames) // bar  # bars to start at beside the first
            start = bar * rng.randint(1, later) if later and rng.random() < later_share else 0
            codes.append(shard["codes"][piece, :, start : start + frames].long())
            captions.append(rng.choice(shard["captions"][piece]))
            sixteenths.append(bar // STEPS_PER_BAR)
        return Batch(torch.stack(codes), captions, torch.tensor(sixteenths))
