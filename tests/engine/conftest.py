"""Fixtures of the engine's tests: dwarf and demo checkpoints, loaded by the engine and by the library."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

# The machine is shared, and dwarfs are too small to gain from threads. Read by torch when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from transformers import AutoProcessor, MusicgenForConditionalGeneration

from generation.engine.checkpoint import LoadedModel, load_checkpoint
from generation.engine.protocol import (
    Cancel,
    Command,
    Event,
    Generate,
    Load,
    LoadFinished,
    Started,
    decode_event,
)
from tests.engine.adapter_files import AdapterFiles, Make, make_adapter
from tests.engine.dwarf import build_dwarf

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "registry" / "checkpoints" / "musicgen-demo"
#: What torch can multiply from packed weights here: bfloat16 on some processors only.
TORCH_PACKS = {
    "float32": torch._C._has_mkldnn,
    "bfloat16": torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported(),
}

E = TypeVar("E")


@pytest.fixture(scope="session", params=[1, 2], ids=["mono", "stereo"])
def dwarf(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a dwarf checkpoint, mono and stereo in turn."""
    return build_dwarf(tmp_path_factory.mktemp(f"dwarf{request.param}"), channels=request.param)


@pytest.fixture(scope="session")
def mono(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the mono dwarf, for tests to which the channels make no difference. Not to be changed."""
    return build_dwarf(tmp_path_factory.mktemp("mono"))


@pytest.fixture
def broken(mono: Path, tmp_path: Path) -> Path:
    """A copy of the mono dwarf that a test may damage."""
    return Path(shutil.copytree(mono, tmp_path / "broken"))


@pytest.fixture(scope="session")
def model(dwarf: Path) -> LoadedModel:
    """The dwarf as the engine loads it."""
    return load_checkpoint(str(dwarf), device="cpu")


@pytest.fixture(scope="session")
def mono_model(mono: Path) -> LoadedModel:
    """The mono dwarf as the engine loads it."""
    return load_checkpoint(str(mono), device="cpu")


@dataclass(frozen=True)
class Library:
    """The oracle: the same checkpoint in the library's own classes."""

    network: MusicgenForConditionalGeneration
    processor: Any

    def generate(self, prompt: str, *, seed: int = 0, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes [K, T] and audio [channels, samples] of the library's own `generate`."""
        codes: list[torch.Tensor] = []
        decode = self.network.audio_encoder.decode

        def recording_decode(audio_codes: torch.Tensor, **kwargs: Any) -> Any:
            codes.append(audio_codes[0, 0])
            return decode(audio_codes, **kwargs)

        inputs = self.processor(text=[prompt], padding=True, return_tensors="pt")
        torch.manual_seed(seed)
        self.network.audio_encoder.decode = recording_decode
        try:
            audio = self.network.generate(**inputs, **options)
        finally:
            self.network.audio_encoder.decode = decode
        # Stereo is decoded in two calls, left and right codebooks.
        return torch.stack(codes, dim=1).flatten(0, 1), audio[0]


@pytest.fixture(scope="session")
def library(dwarf: Path) -> Library:
    """The dwarf as the library loads it."""
    return Library(
        network=MusicgenForConditionalGeneration.from_pretrained(dwarf, dtype=torch.float32).eval(),
        processor=AutoProcessor.from_pretrained(dwarf),
    )


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes each adapter once."""
    made: dict[tuple[Path, str, int], AdapterFiles] = {}

    def make_once(checkpoint: Path, kind: str, seed: int = 0) -> AdapterFiles:
        key = (checkpoint, kind, seed)
        if key not in made:
            folder = tmp_path_factory.mktemp("adapters") / f"{kind}-{seed}"
            made[key] = make_adapter(checkpoint, folder, kind, seed=seed)
        return made[key]

    return make_once


class RunnerProcess:
    """A real runner, `python -m generation.engine`, with its events in a queue."""

    def __init__(self, *, stderr: Path, environment: dict[str, str] | None = None) -> None:
        self.stderr = stderr
        self.lines: list[bytes] = []
        self._events: queue.Queue[bytes | None] = queue.Queue()
        with stderr.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "generation.engine"],
                cwd=ROOT,
                env={**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            self._events.put(line)
        self._events.put(None)

    def send(self, command: Command) -> None:
        self.send_line(command.encode().encode())

    def send_line(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def next_event(self, *, seconds: float = 60) -> Event:
        line = self._events.get(timeout=seconds)
        assert line is not None, f"the runner ended with {self.process.wait()}: {self.stderr.read_text()}"
        return decode_event(line)

    def wait_for(
        self,
        cls: type[E],
        matches: Callable[[E], bool] = lambda event: True,
        *,
        seconds: float = 60,
    ) -> E:
        """The next event of a class, skipping others."""
        deadline = time.monotonic() + seconds
        while True:
            event = self.next_event(seconds=max(0.1, deadline - time.monotonic()))
            if isinstance(event, cls) and matches(event):
                return event

    def load(self, checkpoint: Path) -> LoadFinished:
        self.wait_for(Started)
        self.send(Load(checkpoint=str(checkpoint), device="cpu"))
        return self.wait_for(LoadFinished)

    def close(self) -> int:
        """End stdin as a parent that dies does, and answer the exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(timeout=10)


@pytest.fixture(scope="module")
def start_runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RunnerProcess]]:
    """Starts runners and ends what a test leaves running."""
    runners: list[RunnerProcess] = []

    def start(environment: dict[str, str] | None = None) -> RunnerProcess:
        stderr = tmp_path_factory.mktemp("runner") / "stderr"
        runners.append(RunnerProcess(stderr=stderr, environment=environment))
        return runners[-1]

    yield start
    for runner in runners:
        if runner.process.poll() is None:
            runner.process.kill()
            runner.process.wait()


def generate(output: Path, request: str = "a", *, prompt: str = "slow piano", **options: Any) -> Generate:
    """A generate command with the options that a test does not care about filled in."""
    options = {"duration_seconds": 0.5, "seed": 1, **options}
    return Generate(request=request, prompt=prompt, output=str(output), **options)


def cancel(request: str = "a") -> Cancel:
    return Cancel(request=request)
