"""The runner's measured peak on a CPU beside the predicted one, for MusicGen checkpoints with random weights.

The real runner makes a real take in a process of its own; the kernel says the most memory it ever held.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gated_configs.memory import MemoryEstimate, Request, describe, estimate
from generation.engine.protocol import Generate, RequestFailed, RequestFinished
from generation.runners import Runner

_ROOT: Final = Path(__file__).resolve().parents[2]
DEMO: Final = _ROOT / "registry" / "checkpoints" / "musicgen-demo"
_BUILD: Final = """
import json, sys
import transformers
from transformers import EncodecFeatureExtractor, GenerationConfig
folder, content = sys.argv[1], json.loads(sys.argv[2])
family = {"musicgen": "Musicgen", "musicgen_melody": "MusicgenMelody"}[content["model_type"]]
config = getattr(transformers, f"{family}Config").from_dict(content)
network = getattr(transformers, f"{family}ForConditionalGeneration")(config).eval()
start = config.decoder.vocab_size
network.generation_config = GenerationConfig(bos_token_id=start, decoder_start_token_id=start, pad_token_id=start)
network.save_pretrained(folder)
EncodecFeatureExtractor(
    feature_size=config.decoder.audio_channels, sampling_rate=config.audio_encoder.sampling_rate
).save_pretrained(folder)
"""


@dataclass(frozen=True)
class Peak:
    """What one take of `seconds` needed and what was predicted for it, in bytes."""

    measured_bytes: int
    estimate: MemoryEstimate

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.estimate.total_bytes / self.measured_bytes - 1


def make_checkpoint(folder: Path, config: dict[str, Any]) -> Path:
    """Write a checkpoint of that config, where it is not there yet. Random weights: their numbers take no less memory."""
    if not (folder / "preprocessor_config.json").is_file():  # it is written last
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-c", _BUILD, str(folder), json.dumps(config)], check=True, cwd=_ROOT)
    return folder


def measure(folder: Path, *, seconds: float, dtype: str, guidance: bool = True, reference: str = "") -> Peak:
    """Make one take in a fresh runner. Raises RuntimeError where it fails."""
    peak = asyncio.run(_peak_of(folder, seconds, dtype, guidance, reference))
    config = json.loads((folder / "config.json").read_text())
    return Peak(peak, predict(config, seconds=seconds, dtype=dtype, guidance=guidance))


def predict(config: dict[str, Any], *, seconds: float, dtype: str, guidance: bool) -> MemoryEstimate:
    """What the calculator says of that take on a CPU."""
    request = Request(
        weights={"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[dtype],
        duration_seconds=seconds,
        guidance=guidance,
        device="cpu",
    )
    return estimate(describe(config), request)


async def _peak_of(folder: Path, seconds: float, dtype: str, guidance: bool, reference: str) -> int:
    runner = Runner()
    await runner.start()
    try:
        await runner.load(
            checkpoint=str(folder), device="cpu", dtype=dtype, on_progress=lambda stage, fraction: None
        )
        command = Generate(
            request="take",
            prompt="a calm piano melody",
            duration_seconds=seconds,
            guidance_scale=3.0 if guidance else 1.0,
            seed=1,
            output=str(folder / "take.wav"),
            reference=reference,
        )
        async for event in runner.generate(command):
            if isinstance(event, RequestFailed):
                raise RuntimeError(f"{event.message} {event.detail}")
            if isinstance(event, RequestFinished):
                peak = runner.peak_bytes()
                assert peak is not None
                return peak
        raise RuntimeError("the runner ended without a take")
    finally:
        await runner.end()
