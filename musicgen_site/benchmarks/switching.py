"""Switch times, cold and warm, beside a fresh process that loads the same checkpoint with transformers.

Real servers on an empty home and a checkpoint of musicgen-small's shape with random weights; interleaved, so
that a machine whose speed drifts treats all alike.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from django.conf import settings

from gated_configs.wording import gigabytes
from musicgen_site.benchmarks.own_server import own_server, prepared_environment, run_in_shell
from registry.catalog import DEMO_MODEL_ID
from registry.hardware import read_hardware

BENCHMARK_MODEL_ID = "benchmark-small"

_BUILD = """
import sys
from pathlib import Path
from generation.engine.random_checkpoint import CheckpointShape, build_checkpoint
shape = CheckpointShape(codebook_size=2048, sample_rate=32000, upsampling=(8, 5, 4, 4), codec_filters=64, codec_width=128,
    width=1024, layers=24, heads=16, feed_forward=4096, text_width=768, text_layers=12, text_heads=12)
build_checkpoint(Path(sys.argv[1]), shape, seed=0)
"""

_BASELINE = """
import sys
from transformers import MusicgenForConditionalGeneration
MusicgenForConditionalGeneration.from_pretrained(sys.argv[1])
"""

_ADD_MODEL = """
from registry.models import ModelConfig
ModelConfig.objects.create(id={id!r}, display_name="Benchmark Small", hf_model_id="benchmark/small",
    local_path={path!r}, max_duration_seconds=30, recommended_duration_seconds=10, vram_requirement_gb=4)
"""


@dataclass
class Times:
    """Seconds of each kind of start, one entry a round."""

    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)


def run(*, rounds: int, checkpoint: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure and return the figures. Without `checkpoint` one of musicgen-small's shape is made and kept."""
    folder = checkpoint or made_checkpoint(say)
    times = Times()
    # With no keep-alive a model that is left ends at once, so each switch back to it is a cold one.
    with (
        tempfile.TemporaryDirectory(prefix="musicgen-benchmark-") as scratch,
        _server(Path(scratch) / "cold", folder, keep_alive_minutes=0) as cold,
        _server(Path(scratch) / "warm", folder, keep_alive_minutes=60) as warm,
    ):
        warm.switch(BENCHMARK_MODEL_ID)
        warm.switch(DEMO_MODEL_ID)
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            cold.wait_until_only(DEMO_MODEL_ID)
            times.cold.append(cold.switch(BENCHMARK_MODEL_ID))
            times.baseline.append(_baseline(folder))
            cold.switch(DEMO_MODEL_ID)
            times.warm.append(warm.switch(BENCHMARK_MODEL_ID))
            warm.switch(DEMO_MODEL_ID)
    baseline = median(times.baseline)
    return {
        "hardware": hardware_line(),
        "checkpoint_bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        "rounds": rounds,
        "cold_seconds": [round(value, 3) for value in times.cold],
        "warm_seconds": [round(value, 3) for value in times.warm],
        "fresh_process_seconds": [round(value, 3) for value in times.baseline],
        "cold_to_fresh_process": round(median(times.cold) / baseline, 3),
        "warm_to_fresh_process": round(median(times.warm) / baseline, 4),
    }


def made_checkpoint(say: Callable[[str], None]) -> Path:
    """Folder of a checkpoint of musicgen-small's shape with random weights; made where it is not there yet."""
    folder = Path(settings.STUDIO.home) / "cache" / "benchmark" / "musicgen-small-shape"
    if not (folder / "model.safetensors").is_file():
        say("Making a checkpoint of musicgen-small's shape with random weights, once.")
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-c", _BUILD, str(folder)], check=True, cwd=settings.BASE_DIR)
    return folder


def _baseline(folder: Path) -> float:
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", _BASELINE, str(folder)], check=True, capture_output=True, cwd=settings.BASE_DIR
    )
    return time.monotonic() - began


def hardware_line() -> str:
    """The device's name, cores and memory, for people."""
    machine = read_hardware()
    return f"{machine.device_name}, {os.cpu_count()} cores, {gigabytes(machine.total_bytes)}"


class _Studio:
    """A server of the benchmark's own."""

    def __init__(self, url: str) -> None:
        self._url = url

    def switch(self, model_id: str) -> float:
        """Switch and return the seconds it took by the server's own row. Raises RuntimeError when it failed."""
        self._ask("POST", "/api/models/switch", {"model_id": model_id})
        while True:
            switch = self._ask("GET", "/api/models/switch")["switch"]
            if switch["finished_at"] is not None:
                break
            time.sleep(0.02)
        if switch["stage"] != "ready":
            raise RuntimeError(f"the switch to {model_id} {switch['stage']}: {switch['message']}")
        return float(switch["elapsed_seconds"])

    def wait_until_only(self, model_id: str) -> None:
        """Wait until no other model is loaded and a spare process has had time to start."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            loaded = [
                model["id"] for model in self._ask("GET", "/api/models")["models"] if model["is_loaded"]
            ]
            if loaded == [model_id]:
                time.sleep(25)
                return
            time.sleep(0.2)
        raise RuntimeError(f"{model_id} did not become the only loaded model")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - our own server on loopback
            self._url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)


@contextmanager
def _server(home: Path, checkpoint: Path, *, keep_alive_minutes: int) -> Iterator[_Studio]:
    environment = prepared_environment(home, MUSICGEN_KEEP_ALIVE_MINUTES=str(keep_alive_minutes))
    run_in_shell(_ADD_MODEL.format(id=BENCHMARK_MODEL_ID, path=str(checkpoint)), environment)
    with own_server(environment) as server:
        studio = _Studio(server.url)
        studio.wait_until_only(DEMO_MODEL_ID)
        yield studio
