"""What the machine is, without torch, and whether a model fits it, from which figures."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from gated_configs.wording import THIN_SPACE
from registry import hardware
from registry.fit import fit_of, needed_bytes
from registry.hardware import GB, Hardware, read_hardware
from registry.models import ModelConfig
from tests.conftest import ROOT


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put an `nvidia-smi` that runs this shell line on an otherwise empty PATH."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(hardware, "_kept_card", None)
    monkeypatch.setenv("PATH", str(tmp_path))

    def install(line: str) -> Path:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
        monkeypatch.setattr(hardware, "_kept_card", None)
        return program

    return install


def studio(settings: Any, **changes: Any) -> None:
    """The settings with these changes."""
    settings.STUDIO = settings.STUDIO.model_copy(update=changes)


def test_a_card_is_read_from_the_driver(programs: Callable[[str], Path], settings: Any) -> None:
    programs('echo "NVIDIA L4, 23034, 22500"; echo "NVIDIA L4, 1, 1"')
    card = read_hardware()
    assert card == Hardware("cuda", "NVIDIA L4", 23034 * 2**20, 22500 * 2**20)
    assert (card.kind, card.is_simulated) == ("GPU", False)
    studio(settings, device="cpu")
    assert read_hardware().device == "cpu", "MUSICGEN_DEVICE chooses"


@pytest.mark.parametrize(
    "line", ["exit 9", "echo 'No devices were found'", "echo 'GPU, [N/A], [N/A]'", "true", "exec sleep 60"]
)
def test_a_driver_that_says_nothing_useful_means_no_card(
    line: str, programs: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = subprocess.run
    monkeypatch.setattr("registry.hardware.subprocess.run", lambda *a, **k: run(*a, **{**k, "timeout": 1}))
    program = programs(line.replace("sleep", "/bin/sleep"))
    assert program.exists()
    assert read_hardware().device in {"cpu", "mps"}


def test_the_answer_is_kept_for_a_moment(
    programs: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = programs('echo "NVIDIA L4, 100, 90"')
    assert read_hardware().free_bytes == 90 * 2**20
    program.write_text('#!/bin/sh\necho "NVIDIA L4, 100, 10"\n')
    assert read_hardware().free_bytes == 90 * 2**20
    now = time.monotonic() + hardware.KEEP_SECONDS + 1
    monkeypatch.setattr("registry.hardware.time.monotonic", lambda: now)
    assert read_hardware().free_bytes == 10 * 2**20


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: Any) -> Callable[..., None]:
    """A container's limits."""

    def limits(**files: str) -> None:
        for name, text in files.items():
            (tmp_path / f"memory.{name}").write_text(text)
        monkeypatch.setattr(
            "registry.hardware.Path", lambda text: Path(text.replace("/sys/fs/cgroup", str(tmp_path)))
        )

    return limits


def test_within_a_container_its_limit_counts(cgroup: Callable[..., None]) -> None:
    cgroup(max="3000000000\n", current="1000000000\n")
    machine = read_hardware()
    assert (machine.device, machine.kind) == ("cpu", "CPU")
    assert (machine.total_bytes, machine.free_bytes) == (3 * GB, 2 * GB)
    assert machine.device_name
    cgroup(max="3000000000\n", current="3500000000\n")
    assert read_hardware().free_bytes == 0


@pytest.mark.parametrize("limit", ["max\n", "99999999999999999\n", ""])
def test_a_container_without_a_limit_is_the_machine(limit: str, cgroup: Callable[..., None]) -> None:
    cgroup(max=limit, current="5\n")
    assert read_hardware().total_bytes == psutil.virtual_memory().total


def test_a_smaller_machine_is_simulated(cgroup: Callable[..., None], settings: Any) -> None:
    cgroup(max="8000000000", current="1000000000")
    studio(settings, memory_gb=2.5)
    machine = read_hardware(held_bytes=GB)
    assert (machine.total_bytes, machine.free_bytes) == (2_500_000_000, 1_500_000_000)
    assert machine.is_simulated
    assert read_hardware(held_bytes=3 * GB).free_bytes == 0
    studio(settings, memory_gb=900)
    assert read_hardware().total_bytes == 8 * GB, "a machine is never larger than it is"
    assert read_hardware().free_bytes == 7 * GB


# Fit.


def machine(free: float, total: float = 100) -> Hardware:
    """A machine with so many GB."""
    return Hardware("cpu", "a processor", int(total * GB), int(free * GB))


def model(**fields: Any) -> ModelConfig:
    """A model that needs 4 GB by its list entry."""
    return ModelConfig(pk="some", vram_requirement_gb=4, **fields)


@pytest.mark.parametrize(
    ("free", "held", "verdict", "percent"),
    [(8, 0, "comfortable", 50), (5, 0, "comfortable", 80), (4.9, 0, "barely", 81.6), (4, 0, "barely", 100),
     (3.9, 0, "not", 100), (1, 4, "comfortable", 80), (0, 0, "not", 100)],
)  # fmt: skip
def test_the_verdict_comes_with_its_figures(free: float, held: float, verdict: str, percent: float) -> None:
    fit = fit_of(model(), machine(free), held_bytes=int(held * GB))
    assert fit.verdict == verdict
    assert fit.percent == pytest.approx(percent, abs=0.1)
    words = {"comfortable": "Fits: ", "barely": "Fits barely: ", "not": "Does not fit: "}[verdict]
    sentence = fit.sentence.replace(THIN_SPACE, " ").replace("\xa0", " ")
    assert sentence.startswith(f"{words}needs 4")
    assert "(by its list entry)" in sentence
    assert sentence.endswith(" available.")


def test_what_our_runners_hold_never_makes_the_machine_larger() -> None:
    assert fit_of(model(), machine(free=3, total=3.5), held_bytes=9 * GB).available_bytes == 3_500_000_000


def test_what_was_measured_here_counts_more_than_the_list_entry() -> None:
    known = model(measured_bytes={"cpu float32": 9 * GB})
    assert needed_bytes(known, "cpu") == (9 * GB, True)
    assert needed_bytes(known, "cuda") == (4 * GB, False), "that was another device"
    fit = fit_of(known, machine(8))
    assert fit.verdict == "not"
    assert "(measured here)" in fit.sentence
    for nonsense in (0, -5, "9", None):
        assert needed_bytes(model(measured_bytes={"cpu float32": nonsense}), "cpu") == (4 * GB, False)


def test_none_of_it_imports_torch() -> None:
    code = (
        "import django, os, sys; os.environ['DJANGO_SETTINGS_MODULE'] = 'tests.settings'; django.setup();"
        "import generation.settings_page, generation.switch_api, generation.dispatcher;"
        "from registry.hardware import read_hardware; read_hardware();"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
