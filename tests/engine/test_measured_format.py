"""The format that "auto" means on a processor goes by what was measured on it, once."""

import contextlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from generation.engine import measured_format
from generation.engine.checkpoint import load_checkpoint
from generation.engine.kernels import NoKernels, compiled_kernels
from generation.engine.measured_format import measure_once, measured_share
from registry import number_formats
from registry.number_formats import kept_share, this_machine


@pytest.fixture(autouse=True)
def _small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(number_formats, "_SMALL_PARAMETERS", 1)


@pytest.fixture
def kept(kernels_folder: Path, tmp_path: Path) -> Path:
    """A folder in which kernels are compiled, where there is a compiler, and nothing was measured."""
    with contextlib.suppress(NoKernels):
        name = compiled_kernels(kernels_folder).name
        for suffix in ("so", "sha256"):
            shutil.copy(kernels_folder / f"kernels-{name}.{suffix}", tmp_path)
    return tmp_path


def test_a_first_load_measures_and_keeps_it(mono: Path, kept: Path) -> None:
    model = load_checkpoint(str(mono), device="cpu", kept=kept)
    share = kept_share(kept, "small")
    assert share is not None
    assert 0.05 < share < 50
    wanted = "bfloat16" if share <= 0.9 else "float32"
    assert model.format_name == wanted
    assert {each.name for each in kept.iterdir() if not each.name.startswith("kernels-")} == {"small.json"}


@pytest.mark.parametrize(("share", "wanted"), [(0.5, "bfloat16"), (1.5, "float32")])
def test_later_loads_go_by_it(
    mono: Path, kept: Path, monkeypatch: pytest.MonkeyPatch, share: float, wanted: str
) -> None:
    path = kept / "small.json"
    name = ""
    with contextlib.suppress(NoKernels):
        name = compiled_kernels(kept).name
    path.write_text(json.dumps({"measured_on": this_machine(), "kernels": name, "bfloat16_time": share}))
    monkeypatch.setattr(
        measured_format, "measured_share", lambda size, kernels: pytest.fail("measured again")
    )
    assert load_checkpoint(str(mono), device="cpu", kept=kept).format_name == wanted
    for asked in ("float32", "bfloat16"):
        model = load_checkpoint(str(mono), device="cpu", dtype=asked, kept=kept)
        assert model.format_name == asked, "what somebody asks for counts more"


def test_what_another_processor_took_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "small.json"
    path.write_text(json.dumps({"measured_on": "another", "kernels": "", "bfloat16_time": 0.5}))
    monkeypatch.setattr(measured_format, "measured_share", lambda size, kernels: 1.25)
    measure_once("small", tmp_path, None)
    assert kept_share(tmp_path, "small") == 1.25
    measure_once("small", Path("/dev/null/none"), None)  # nowhere to keep it, and no error


def test_what_was_measured_without_a_compiler_is_measured_anew_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = {"": 1.1, "compiled": 0.5}
    monkeypatch.setattr(
        measured_format, "measured_share", lambda size, kernels: shares[kernels.name if kernels else ""]
    )
    compiled: Any = SimpleNamespace(name="compiled")
    for kernels, share in ((None, 1.1), (compiled, 0.5), (None, 1.1)):
        measure_once("small", tmp_path, kernels)
        assert kept_share(tmp_path, "small") == share


def test_what_is_measured_is_the_time_of_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    took = iter([4.0, 3.0, 2.0, 9.0, 8.0, 1.0] + [10.0] * 4)
    asked: list[Any] = []

    def seconds(layers: Any, rows: Any) -> float:
        asked.append((layers[0].weight.dtype, rows.dtype))
        return next(took)

    monkeypatch.setattr(measured_format, "_LAYERS", {"small": (2, (64, 32))})
    monkeypatch.setattr(measured_format, "_seconds", seconds)
    assert measured_share("small", None) == 0.5, "the best of each"
    assert [str(weights) for weights, _ in asked] == ["torch.float32", "torch.bfloat16"] * 5
    assert all(weights == rows for weights, rows in asked)
