"""The time from one adapter to another beside reloading the checkpoint, in real runners.

Two adapters with random weights on every layer of the checkpoint; interleaved, so that a machine whose speed
drifts treats all alike. Imports no torch: the runners do.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from generation.engine.protocol import AdapterUse, Generate, RequestFailed, RequestFinished
from generation.runners import Runner
from musicgen_site.benchmarks.switching import hardware_line, made_checkpoint

RANK: Final = 16
#: What people train most: the attention's projections and the feed-forward layers.
MODULES: Final = [
    *(f"{part}.{name}_proj" for part in ("self_attn", "encoder_attn") for name in ("q", "k", "v", "out")),
    "fc1",
    "fc2",
]
#: One frame: what a change or a reload takes until something of the next take is there.
SHORT_SECONDS: Final = 0.02
LONG_SECONDS: Final = 0.5


@dataclass
class Times:
    """Seconds of each kind, one entry a round, two of those of changes.

    Loading maps the weights of a checkpoint, and the first frame reads them: so both are told.
    """

    change: list[float] = field(default_factory=list)
    change_to_frame: list[float] = field(default_factory=list)
    first_use: list[float] = field(default_factory=list)
    reload: list[float] = field(default_factory=list)
    reload_to_frame: list[float] = field(default_factory=list)
    long_without: list[float] = field(default_factory=list)
    long_with: list[float] = field(default_factory=list)


def run(*, rounds: int, checkpoint: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure and return the figures. Without `checkpoint` one of musicgen-small's shape is made and kept.

    Raises RuntimeError when a runner fails.
    """
    folder = checkpoint or made_checkpoint(say)
    with tempfile.TemporaryDirectory(prefix="musicgen-benchmark-") as scratch:
        adapters = [make_adapter(folder, Path(scratch), seed=seed) for seed in (1, 2)]
        adapter_bytes = Path(adapters[0].path).stat().st_size
        times = asyncio.run(_measure(folder, adapters, Path(scratch) / "take.wav", rounds, say))
    return {
        "hardware": hardware_line(),
        "checkpoint_bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        "adapter_bytes": adapter_bytes,
        "adapter_rank": RANK,
        "rounds": rounds,
        "first_use_seconds": _rounded(times.first_use),
        "change_seconds": _rounded(times.change),
        "reload_seconds": _rounded(times.reload),
        "change_to_frame_seconds": _rounded(times.change_to_frame),
        "reload_to_frame_seconds": _rounded(times.reload_to_frame),
        "frames_seconds_without": _rounded(times.long_without),
        "frames_seconds_with": _rounded(times.long_with),
        "change_to_reload": _ratio(times.change, times.reload),
        "change_to_reload_with_frame": _ratio(times.change_to_frame, times.reload_to_frame),
        "with_to_without": _ratio(times.long_with, times.long_without),
    }


def make_adapter(checkpoint: Path, folder: Path, *, seed: int) -> AdapterUse:
    """Write an adapter with random weights for a checkpoint's decoder into `folder`, and answer its use."""
    import numpy as np
    from safetensors.numpy import save_file

    decoder = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["decoder"]
    width, wide = decoder["hidden_size"], decoder["ffn_dim"]
    random = np.random.default_rng(seed)
    tensors: dict[str, Any] = {}
    for layer in range(decoder["num_hidden_layers"]):
        for module in MODULES:
            name = f"base_model.model.model.decoder.layers.{layer}.{module}"
            inside, outside = {"fc1": (width, wide), "fc2": (wide, width)}.get(module, (width, width))
            a = random.standard_normal((RANK, inside), dtype=np.float32) / inside**0.5
            b = random.standard_normal((outside, RANK), dtype=np.float32) * 0.01
            tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    path = folder / f"adapter-{seed}.safetensors"
    save_file(tensors, path)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": MODULES}
    return AdapterUse(
        path=str(path),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        config=json.dumps(config),
        name=path.stem,
    )


async def _measure(
    checkpoint: Path, adapters: list[AdapterUse], output: Path, rounds: int, say: Callable[[str], None]
) -> Times:
    times = Times()
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        runner = Runner()
        await runner.start()
        try:
            # The process has its libraries already, as a spare one of the studio has.
            began = time.monotonic()
            await _load(runner, checkpoint)
            times.reload.append(time.monotonic() - began)
            await _take(runner, output, SHORT_SECONDS, [])
            times.reload_to_frame.append(time.monotonic() - began)
            times.first_use.append((await _take(runner, output, SHORT_SECONDS, adapters[:1])).attach)
            await _take(runner, output, SHORT_SECONDS, adapters[1:])
            for use in adapters:
                short = await _take(runner, output, SHORT_SECONDS, [use])
                times.change.append(short.attach)
                times.change_to_frame.append(short.wall)
            times.long_with.append((await _take(runner, output, LONG_SECONDS, adapters[1:])).frames)
            times.long_without.append((await _take(runner, output, LONG_SECONDS, [])).frames)
        finally:
            await runner.end()
    return times


async def _load(runner: Runner, checkpoint: Path) -> None:
    await runner.load(
        checkpoint=str(checkpoint), device="auto", dtype="auto", on_progress=lambda stage, fraction: None
    )


@dataclass(frozen=True)
class _Seconds:
    """Of one take: from the request until its adapters stand, until the file is there, and of its frames alone."""

    attach: float
    wall: float
    frames: float


async def _take(
    runner: Runner, output: Path, duration_seconds: float, adapters: list[AdapterUse]
) -> _Seconds:
    command = Generate(
        request=f"take-{time.monotonic_ns()}",
        prompt="a calm piano melody",
        duration_seconds=duration_seconds,
        seed=1,
        output=str(output),
        adapters=adapters,
    )
    began = time.monotonic()
    attach: float | None = None
    async for event in runner.generate(command):
        if isinstance(event, RequestFailed):
            raise RuntimeError(f"{event.message} {event.detail}")
        # The first word about a request comes when its adapters stand.
        attach = attach or time.monotonic() - began
        if isinstance(event, RequestFinished):
            return _Seconds(attach, time.monotonic() - began, event.seconds.generate)
    raise RuntimeError("the runner ended without a take")


def _ratio(seconds: list[float], others: list[float]) -> float:
    return round(median(seconds) / median(others), 4)


def _rounded(seconds: list[float]) -> list[float]:
    return [round(each, 3) for each in seconds]
