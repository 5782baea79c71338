"""What this machine can load models on, and how much of it is free. Never imports torch.

The web process asks here; the runner decides for itself with torch, by the same order: CUDA, Apple, CPU.
"""

from __future__ import annotations

import contextlib
import platform
import shutil
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import psutil
from django.conf import settings

GB: Final = 10**9
#: nvidia-smi takes a tenth of a second: its answer is kept this long, in seconds.
KEEP_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Hardware:
    """The device that models are loaded on. `is_simulated` when MUSICGEN_MEMORY_GB stands for a smaller machine."""

    device: Literal["cuda", "mps", "cpu"]
    device_name: str
    total_bytes: int
    free_bytes: int
    is_simulated: bool = False

    @property
    def kind(self) -> str:
        """The device in a word: "CPU", "GPU", "Apple GPU"."""
        return {"cpu": "CPU", "cuda": "GPU", "mps": "Apple GPU"}[self.device]


def read_hardware(*, held_bytes: int = 0) -> Hardware:
    """The device in use now. `held_bytes` is what our own runners hold, for a simulated machine's free memory."""
    real = _real_hardware(settings.STUDIO.device)
    limit_gb = settings.STUDIO.memory_gb
    if limit_gb is None:
        return real
    total = min(real.total_bytes, int(limit_gb * GB))
    free = max(0, min(real.free_bytes, total - held_bytes))
    return replace(real, total_bytes=total, free_bytes=free, is_simulated=True)


def _real_hardware(wanted: str) -> Hardware:
    if wanted in ("auto", "cuda") and (card := _nvidia_card()) is not None:
        return card
    memory = _machine_memory()
    if wanted in ("auto", "mps") and platform.system() == "Darwin" and platform.machine() == "arm64":
        # Apple's GPU shares the machine's memory.
        return Hardware("mps", _processor_name(), *memory)
    return Hardware("cpu", _processor_name(), *memory)


_kept_card: tuple[float, Hardware | None] | None = None


def _nvidia_card() -> Hardware | None:
    """The first NVIDIA card, as nvidia-smi tells it, which comes with the driver."""
    global _kept_card
    if _kept_card is not None and time.monotonic() - _kept_card[0] < KEEP_SECONDS:
        return _kept_card[1]
    card = _card_from_smi()
    _kept_card = (time.monotonic(), card)
    return card


def _card_from_smi() -> Hardware | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits", "--id=0"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout
        name, total, free = (part.strip() for part in answer.splitlines()[0].split(","))
        return Hardware("cuda", name, int(total) * 2**20, int(free) * 2**20)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _machine_memory() -> tuple[int, int]:
    """Total and free bytes of memory; within a container, of what it is allowed."""
    memory = psutil.virtual_memory()
    total, free = int(memory.total), int(memory.available)
    with contextlib.suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        if limit < total:
            total, free = limit, min(free, max(0, limit - used))
    return total, free


def _processor_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()
