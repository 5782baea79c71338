"""Trains the demo's EnCodec on composed music: unquantised, then with residual codebooks, at last the decoder alone.

The library's EnCodec holds codebooks but cannot train them. Knows nothing of captions or the language model."""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from transformers import EncodecConfig, EncodecModel

from .composer import compose
from .spectra import reconstruction_loss, si_sdr, spectral_distance
from .synthesiser import SAMPLE_RATE, SAMPLES_PER_FRAME, render

WEIGHTS = {"energy": 3.0, "waveform": 10.0, "spectrum": 1.0, "mel": 0.3, "commitment": 0.3}
# In force from the first step. The others rise: alone they start at silence and stay there.
EARLY = ("energy", "commitment")
UNSEEN_SEEDS = 1_000_000_000  # training never reaches these
CROP_FRAMES = 50
UNQUANTISED_SHARE, FINAL_SHARE = (
    0.4,
    0.83,
)  # of all steps: books begin after the first, tokens are final after the second
SECONDS_BETWEEN_SAVES = 60
LATENT_SPREAD = 256.0  # of an exported codec


def codec_config() -> EncodecConfig:
    """16 kHz mono, 50 frames a second, 4 codebooks of 512: 1.8 kbit/s, 2.1 million parameters."""
    return EncodecConfig(
        sampling_rate=SAMPLE_RATE,
        audio_channels=1,
        normalize=False,
        target_bandwidths=[1.8],
        use_causal_conv=False,
        pad_mode="constant",
        num_filters=16,
        upsampling_ratios=[4, 4, 4, 5],
        num_lstm_layers=1,
        hidden_size=64,
        codebook_dim=64,
        codebook_size=512,
    )


@torch.no_grad()
def start_weights(codec: EncodecModel) -> None:
    """Give every convolution unit gain and no bias: the library's start loses the signal on its way through 14 layers."""
    for module in codec.modules():
        if isinstance(module, torch.nn.Conv1d | torch.nn.ConvTranspose1d):
            inputs = module.weight[0].numel()
            if isinstance(module, torch.nn.ConvTranspose1d):
                inputs = module.weight[:, 0].numel() // module.stride[0]
            module.weight = torch.randn_like(module.weight) * math.sqrt(1.2 / inputs)
            if module.bias is not None:
                module.bias.zero_()


class TrainableCodebooks:
    """Residual quantisation whose codebooks learn: straight-through gradients, moving averages, dead codes revived."""

    decay = 0.99
    dead_below = 0.03  # expected uses a step

    def __init__(self, codec: EncodecModel) -> None:
        self.books: list[Any] = [layer.codebook for layer in codec.quantizer.layers]

    @torch.no_grad()
    def start_from_clusters(self, latents: Tensor, rounds: int = 25) -> None:
        """K-means of `latents` [N, D] for the first book, of what it leaves over for the second, and so on."""
        for book in self.books:
            centres = latents[torch.randperm(len(latents))[: book.codebook_size]].clone()
            for _ in range(rounds):
                nearest = torch.cdist(latents, centres).argmin(1)
                counts = torch.bincount(nearest, minlength=len(centres)).float()
                sums = torch.zeros_like(centres).index_add_(0, nearest, latents)
                empty = counts == 0
                centres = sums / counts.clamp(min=1)[:, None]
                centres[empty] = latents[torch.randint(len(latents), (int(empty.sum()),))]
            book.embed.copy_(centres)
            book.cluster_size.fill_(1.0)
            book.embed_avg.copy_(centres)
            latents = latents - centres[torch.cdist(latents, centres).argmin(1)]

    def __call__(self, latents: Tensor, learn: bool = True) -> tuple[Tensor, Tensor]:
        """Quantise `latents` [B, D, T] and learn from them. Gives the quantised latents and the commitment loss."""
        flat = latents.transpose(1, 2).reshape(-1, latents.shape[1])  # [B * T, D]
        residual, total = flat.detach(), torch.zeros_like(flat)
        for book in self.books:
            nearest = book.quantize(residual)
            chosen = book.embed[nearest]
            if learn:
                self._follow(book, residual, nearest)
            residual, total = residual - chosen, total + chosen
        commitment = mse_loss(flat, total) / flat.detach().var().clamp(min=1e-6)
        quantised = flat + (total - flat).detach()
        return quantised.view(latents.shape[0], -1, latents.shape[1]).transpose(1, 2), commitment

    @torch.no_grad()
    def _follow(self, book: Any, residual: Tensor, nearest: Tensor) -> None:
        counts = torch.bincount(nearest, minlength=book.codebook_size).float()
        sums = torch.zeros_like(book.embed).index_add_(0, nearest, residual)
        book.cluster_size.lerp_(counts, 1 - self.decay)
        book.embed_avg.lerp_(sums, 1 - self.decay)
        dead = book.cluster_size < self.dead_below
        if dead.any():
            book.embed_avg[dead] = residual[torch.randint(len(residual), (int(dead.sum()),))]
            book.cluster_size[dead] = 1.0
        book.embed.copy_(book.embed_avg / book.cluster_size.clamp(min=1e-5)[:, None])


def crops(seed: int, batch: int, crops_per_piece: int = 2) -> Tensor:
    """Random one-second crops, cut on frames, of freshly composed pieces: [batch, 1, samples]."""
    rng = random.Random(seed)
    rows: list[Tensor] = []
    while len(rows) < batch:
        audio = torch.from_numpy(render(compose(rng.randrange(UNSEEN_SEEDS))))
        for _ in range(crops_per_piece):
            start = rng.randrange(len(audio) // SAMPLES_PER_FRAME - CROP_FRAMES) * SAMPLES_PER_FRAME
            crop = audio[start : start + CROP_FRAMES * SAMPLES_PER_FRAME]
            if crop.abs().max() > 0.01:
                rows.append(crop)
    return torch.stack(rows[:batch])[:, None]


def encode(codec: EncodecModel, audio: Tensor) -> Tensor:
    """Audio [B, samples] as codes [B, K, T]. The quantiser works in float32 whatever the encoder runs in."""
    latents = codec.encoder(audio[:, None]).float()
    codes: Tensor = codec.quantizer.encode(latents, codec.config.target_bandwidths[-1])  # [K, B, T]
    return codes.transpose(0, 1)


def decode(codec: EncodecModel, codes: Tensor) -> Tensor:
    """Codes [B, K, T] as audio [B, samples]."""
    audio: Tensor = codec.decoder(codec.quantizer.decode(codes.transpose(0, 1)))[:, 0]
    return audio


@torch.no_grad()
def storable_scale(codec: EncodecModel) -> None:
    """Bring the latents to a spread of LATENT_SPREAD, changing neither codes nor audio.

    Training leaves their scale free and it drifts into the millions. Float16 files end at 65,504, so part of it goes
    into the books and the rest into the decoder's first convolution. What the decoder computes stays as large: its
    nonlinearities are not the same at another scale, and it needs float32 or bfloat16 to run.
    """
    books = [layer.codebook for layer in codec.quantizer.layers]
    scale = books[0].embed.std() / LATENT_SPREAD
    to_latents, from_latents = codec.encoder.layers[-1].conv, codec.decoder.layers[0].conv
    to_latents.weight = to_latents.weight / scale
    to_latents.bias.div_(scale)
    from_latents.weight = from_latents.weight * scale
    for convolution in (to_latents, from_latents):
        # The length of the stored direction is free as well: only its norm beside it counts.
        stored = convolution.parametrizations.weight
        stored.original1.div_(stored.original0)
    for book in books:
        book.embed.div_(scale)
        book.embed_avg.div_(scale)


@torch.no_grad()
def evaluate_codec(
    codec: EncodecModel, *, quantised: bool, pieces: int = 16, seconds: float = 4.0
) -> dict[str, float]:
    """SI-SDR and spectral distance (dB, medians) on pieces outside the training seeds."""
    audio = torch.stack([torch.from_numpy(render(compose(UNSEEN_SEEDS + n, seconds))) for n in range(pieces)])
    audio = audio.to(codec.device)
    made = (
        decode(codec, encode(codec, audio))
        if quantised
        else codec.decoder(codec.encoder(audio[:, None]))[:, 0]
    )
    made = made[:, : audio.shape[1]]
    return {
        "si_sdr": float(si_sdr(made, audio).median()),
        "distance": float(spectral_distance(made, audio).median()),
    }


class CodecTraining:
    """The codec of one run folder with everything that a next step needs; goes on from the folder's checkpoint.

    Chance depends on the number of the step alone, so a resumed run does what an unbroken one would have done.
    """

    learning_rate = 1e-3

    def __init__(
        self,
        run: Path,
        *,
        steps: int,
        batch: int = 4,
        config: EncodecConfig | None = None,
        device: str = "cpu",
    ) -> None:
        torch.manual_seed(0)
        self.device = torch.device(device)
        self.codec = EncodecModel(config or codec_config())
        start_weights(self.codec)
        self.codec.to(self.device)
        self.optimiser = torch.optim.AdamW(self.codec.parameters(), betas=(0.8, 0.99), weight_decay=1e-4)
        self.codebooks = TrainableCodebooks(self.codec)
        self.saved, self.steps, self.batch, self.steps_done = run / "codec.pt", steps, batch, 0
        self.quantise_from, self.final_from = int(steps * UNQUANTISED_SHARE), int(steps * FINAL_SHARE)
        if self.saved.exists():
            state = torch.load(self.saved, map_location=self.device, weights_only=True)
            self.codec.load_state_dict(state["codec"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.steps_done = state["step"]

    def step(self) -> dict[str, float]:
        """One step. Gives its unweighted losses and the norm of the gradient."""
        step = self.steps_done
        torch.manual_seed(step)
        warm = min(1.0, (step + 1) / 30)
        falling = 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate * warm * falling
        if step == self.quantise_from:
            self._start_codebooks()
        losses = self._losses(crops(step, self.batch).to(self.device))
        rise = min(1.0, step / (0.15 * self.steps))
        shares = {name: (1.0 if name in EARLY else rise) * WEIGHTS[name] for name in losses}
        self.optimiser.zero_grad()
        torch.autograd.backward(torch.stack([shares[name] * loss for name, loss in losses.items()]).sum())
        norm = torch.nn.utils.clip_grad_norm_(self.codec.parameters(), 2.0)
        self.optimiser.step()
        self.steps_done += 1
        return {"norm": float(norm)} | {name: float(value.detach()) for name, value in losses.items()}

    def _losses(self, audio: Tensor) -> dict[str, Tensor]:
        step, losses = self.steps_done, dict[str, Tensor]()
        self.codec.encoder.requires_grad_(step < self.final_from)
        latents = self.codec.encoder(audio)  # [B, D, T]
        if step >= self.quantise_from:
            latents, losses["commitment"] = self.codebooks(latents, learn=step < self.final_from)
        else:  # rising noise prepares the latents for the loss of precision
            noise = 0.5 * step / self.quantise_from * latents.detach().std()
            loudness = torch.rand(len(latents), 1, 1, device=self.device)
            latents = latents + noise * loudness * torch.randn_like(latents)
        return losses | reconstruction_loss(self.codec.decoder(latents)[:, 0], audio[:, 0])

    @torch.no_grad()
    def _start_codebooks(self, batches: int = 60) -> None:
        latents = [
            self.codec.encoder(crops(self.steps + n, self.batch).to(self.device)) for n in range(batches)
        ]
        self.codebooks.start_from_clusters(torch.cat([one.transpose(1, 2).flatten(0, 1) for one in latents]))

    def save(self) -> None:
        """Write the checkpoint completely or not at all."""
        state = {
            "codec": self.codec.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.steps_done,
        }
        torch.save(state, self.saved.with_suffix(".new"))
        self.saved.with_suffix(".new").replace(self.saved)


def train_codec(run: Path, steps: int, batch: int = 4, device: str = "cpu") -> None:
    """Train, or go on training, the codec in `run` to `steps` steps; losses go to `codec.jsonl` there."""
    run.mkdir(parents=True, exist_ok=True)
    training = CodecTraining(run, steps=steps, batch=batch, device=device)
    began = saved_at = time.monotonic()
    while training.steps_done < steps:
        losses = training.step()
        done, now = training.steps_done, time.monotonic()
        last = done == steps
        if done % 50 == 0 or last:
            facts = {"step": done, "seconds": now - began, **losses}
            if done % 250 == 0 or last:
                facts |= evaluate_codec(training.codec, quantised=done > training.quantise_from)
            with (run / "codec.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps({name: round(value, 4) for name, value in facts.items()}) + "\n")
        if last or now - saved_at > SECONDS_BETWEEN_SAVES:
            saved_at = now
            training.save()


def load_codec(run: Path, config: EncodecConfig | None = None) -> EncodecModel:
    """The codec of a run as far as it is trained, on the CPU, to be used and not trained."""
    codec = EncodecModel(config or codec_config()).eval()
    codec.load_state_dict(torch.load(run / "codec.pt", map_location="cpu", weights_only=True)["codec"])
    return codec
