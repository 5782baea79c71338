"""The time to memory figures of two very large models, beside `accelerate estimate-memory` on the same configs.

Interleaved, so that a machine whose speed drifts treats all alike. Nothing is downloaded: accelerate's own command
runs on the same config in a folder, with its question to the hub answered here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import psutil

from gated_configs.memory import Calculator, Request, check_config, estimate
from musicgen_site.benchmarks.switching import hardware_line

#: Two of the largest models: dense, and with 256 experts a layer.
MODELS: Final = {"Llama-3.1-405B": "llama-3.1-405b", "DeepSeek-V3": "deepseek-v3"}
_CONFIGS: Final = Path(__file__).resolve().parent / "configs"

#: The command's own code, asked once and then again for the other model in the process that is already warm.
_ACCELERATE: Final = """
import json, sys, time
from types import SimpleNamespace
from accelerate.commands import estimate
estimate.verify_on_hub = lambda *_: SimpleNamespace(config={}, library_name="transformers")
for folder in sys.argv[1:]:
    began = time.perf_counter()
    options = ["--library_name", "transformers", "--dtypes", "float32"]
    try:
        rows = estimate.gather_data(estimate.estimate_command_parser().parse_args([folder, *options]))
        told = {"total_bytes": rows[0][2], "seconds": time.perf_counter() - began, "cpu": time.process_time()}
    except Exception as problem:
        told = {"problem": str(problem)}
    print("told", json.dumps(told), flush=True)
"""


def run(*, rounds: int, checkpoint: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure and return the figures; `checkpoint` is of no use here."""
    configs = {name: json.loads((_CONFIGS / f"{file}.json").read_text()) for name, file in MODELS.items()}
    times = {name: Times() for name in MODELS}
    with tempfile.TemporaryDirectory(prefix="musicgen-benchmark-") as scratch:
        folders = {name: _folder(Path(scratch), MODELS[name], config) for name, config in configs.items()}
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for name in MODELS:
                other = next(each for each in MODELS if each != name)
                _time_ours(configs[name], configs[other], times[name])
                _time_theirs(folders[name], folders[other], times[name])
    return {
        "hardware": hardware_line(),
        "rounds": rounds,
        "models": {name: told.as_figures() for name, told in times.items()},
    }


@dataclass
class Times:
    """Seconds of each kind, one entry a round; what accelerate could not do has none, and `problem` says why."""

    first: list[float] = field(default_factory=list)
    next: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    first_cpu: list[float] = field(default_factory=list)
    next_cpu: list[float] = field(default_factory=list)
    accelerate_first: list[float] = field(default_factory=list)
    accelerate_next: list[float] = field(default_factory=list)
    accelerate_first_cpu: list[float] = field(default_factory=list)
    weight_bytes: int = 0
    accelerate_bytes: int | None = None
    problem: str = ""

    def as_figures(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "first_seconds": _rounded(self.first),
            "next_seconds": _rounded(self.next),
            "again_seconds": _rounded(self.again, 5),
            "first_processor_seconds": _rounded(self.first_cpu),
            "next_processor_seconds": _rounded(self.next_cpu),
            "accelerate_first_processor_seconds": _rounded(self.accelerate_first_cpu),
            "accelerate_first_seconds": _rounded(self.accelerate_first),
            "accelerate_next_seconds": _rounded(self.accelerate_next),
            "first_to_accelerate": _ratio(self.first, self.accelerate_first),
            "next_to_accelerate": _ratio(self.next, self.accelerate_next),
            "weight_bytes_float32": self.weight_bytes,
            "accelerate_bytes_float32": self.accelerate_bytes,
            "accelerate_problem": self.problem,
        }


def _folder(scratch: Path, name: str, config: dict[str, Any]) -> Path:
    folder = scratch / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _time_ours(config: dict[str, Any], other: dict[str, Any], times: Times) -> None:
    """Whole answers, from a parsed config to bytes: in a process started for it, for the next model, and again."""
    calculator = Calculator()
    used = 0.0
    try:
        for kind, asked in ((times.first, config), (times.next, other), (times.again, other)):
            began = time.perf_counter()
            architecture = calculator.describe(check_config(asked).config)
            answer = estimate(architecture, Request(weights="fp32", context=8192))
            kind.append(time.perf_counter() - began)
            if kind is times.first:
                times.weight_bytes = answer.weight_bytes
            if kind is not times.again:
                before, used = used, _processor_seconds(calculator)
                (times.first_cpu if kind is times.first else times.next_cpu).append(used - before)
    finally:
        calculator.close()


def _processor_seconds(calculator: Calculator) -> float:
    """What the calculator's process and its forks have used so far, on however busy a machine."""
    time.sleep(0.1)  # until the fork that answered has been seen to
    assert calculator.process_id is not None
    spent = psutil.Process(calculator.process_id).cpu_times()
    return float(spent.user + spent.system + spent.children_user + spent.children_system)


def _time_theirs(folder: Path, other: Path, times: Times) -> None:
    """The same of accelerate's command. It may fail: it makes each tensor for a moment before it is without storage."""
    began = time.perf_counter()
    told: list[dict[str, Any]] = []
    with subprocess.Popen(
        [sys.executable, "-c", _ACCELERATE, str(folder), str(other)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("told "):
                wall = time.perf_counter() - began
                told.append({**json.loads(line.removeprefix("told ")), "wall": wall})
    if len(told) < 2:
        times.problem = f"the command ended with status {process.returncode}"
    for answer, key in zip(told, ("first", "next"), strict=False):
        if "problem" in answer:
            times.problem = answer["problem"]
        elif key == "first":
            times.accelerate_first.append(answer["wall"])
            times.accelerate_first_cpu.append(answer["cpu"])
            times.accelerate_bytes = int(answer["total_bytes"])
        else:
            times.accelerate_next.append(answer["seconds"])


def _ratio(seconds: list[float], others: list[float]) -> float | None:
    return round(median(seconds) / median(others), 3) if others else None


def _rounded(seconds: list[float], digits: int = 3) -> list[float]:
    return [round(each, digits) for each in seconds]
