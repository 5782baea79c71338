"""Measures peaks of the runner beside predicted ones: `python -m tests.memory.agreement FOLDER [CASE ...]`.

FOLDER keeps the checkpoints it makes (20 GB). Results go to tests/data/memory_peaks.json and from there into
docs/accuracy.md. Thirty seconds of music take minutes on a CPU.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.memory.peaks import DEMO, make_checkpoint, measure

ROOT: Final = Path(__file__).resolve().parents[2]
RESULTS: Final = ROOT / "tests" / "data" / "memory_peaks.json"


@dataclass(frozen=True)
class Case:
    """One take: of which checkpoint, how long, in which dtype."""

    checkpoint: str
    seconds: float
    dtype: str = "float32"
    guidance: bool = True

    @property
    def name(self) -> str:
        """What a person calls it on the command line."""
        return f"{self.checkpoint}:{self.dtype}:{self.seconds:g}{'' if self.guidance else ':plain'}"


CASES: Final = (
    Case("musicgen-demo", 1),
    Case("musicgen-demo", 20),
    Case("musicgen-small", 1),
    Case("musicgen-small", 1, dtype="bfloat16"),
    Case("musicgen-small", 5),
    Case("musicgen-small", 5, guidance=False),
    Case("musicgen-small", 5, dtype="bfloat16"),
    Case("musicgen-stereo-small", 2),
    Case("musicgen-stereo-small", 5),
    Case("musicgen-small", 10),
    Case("musicgen-small", 30),
    Case("musicgen-medium", 1),
    Case("musicgen-medium", 1, dtype="bfloat16"),
    Case("musicgen-melody", 1),
    Case("musicgen-melody", 1, dtype="bfloat16"),
)


def results() -> dict[str, Any]:
    """What was measured, by the names of the cases."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def config_of(name: str) -> dict[str, Any]:
    """The config of a case's checkpoint."""
    path = DEMO / "config.json" if name == DEMO.name else ROOT / "gated_configs" / "builtin" / f"{name}.json"
    config: dict[str, Any] = json.loads(path.read_text())
    return config


def checkpoint(name: str, folder: Path) -> Path:
    """A checkpoint of that shape with random weights; the demo as it ships."""
    made = folder / name
    if name != DEMO.name:
        return make_checkpoint(made, config_of(name))
    if not made.exists():
        shutil.copytree(DEMO, made)
    return made


def main(folder: Path, names: list[str]) -> None:
    """Measure the cases named, or all, and keep each result at once."""
    measured = results()
    for case in CASES:
        if names and case.name not in names:
            continue
        peak = measure(
            checkpoint(case.checkpoint, folder),
            seconds=case.seconds,
            dtype=case.dtype,
            guidance=case.guidance,
        )
        measured[case.name] = {"measured_bytes": peak.measured_bytes, "hardware": hardware()}
        RESULTS.write_text(json.dumps(measured, indent=1) + "\n")
        predicted = peak.estimate.total_bytes
        print(
            f"{case.name}: measured {peak.measured_bytes:,}, predicted {predicted:,} ({peak.error:+.1%})",
            flush=True,
        )


def hardware() -> str:
    """The processor and the versions that measured."""
    import torch
    import transformers

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
    return (
        f"{name}, {os.cpu_count()} cores, torch {torch.__version__}, transformers {transformers.__version__}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
