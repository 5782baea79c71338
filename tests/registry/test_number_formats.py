"""Which format a processor gets: what the web process counts is what the runner holds."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry import number_formats
from registry.fit import dtype_of, need_of
from registry.models import ModelConfig
from registry.number_formats import format_on_processor, multiplies_bfloat16, size_of, this_machine


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    yield
    _forget()


def _forget() -> None:
    multiplies_bfloat16.cache_clear()
    this_machine.cache_clear()


def with_processor(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    """A machine whose kernel says that of its processor."""
    (folder / "cpuinfo").write_text(text)
    monkeypatch.setattr(number_formats, "Path", lambda path: folder / Path(path).name)
    _forget()


def test_sizes() -> None:
    assert size_of(layers=24, hidden=1024, intermediate=4096) == "large"
    assert size_of(layers=6, hidden=256, intermediate=1024) == "small", "the demo's"
    assert size_of(layers=2, hidden=32, intermediate=64) is None


def measured(folder: Path, share: object, machine: str | None = None) -> Path:
    """A file of measurements."""
    for size in ("large", "small"):
        (folder / f"{size}.json").write_text(
            json.dumps({"measured_on": machine or this_machine(), "bfloat16_time": share})
        )
    return folder


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("processor: 0\nflags\t\t: fpu sse avx512f avx512_bf16\n", "bfloat16"),
        ("flags : fpu amx_bf16 amx_tile\n", "bfloat16"),
        ("Features\t: fp asimd i8mm bf16\n", "bfloat16"),
        ("flags : fpu avx2\nbugs : avx512_bf16\n", "float32"),
        ("", "float32"),
    ],
)
def test_a_processor_that_multiplies_bfloat16_holds_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, wanted: str
) -> None:
    with_processor(monkeypatch, tmp_path, text)
    assert format_on_processor("large", None) == wanted
    assert format_on_processor("large", tmp_path / "none") == wanted
    assert format_on_processor("small", None) == "float32"


def test_what_was_measured_counts_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_processor(monkeypatch, tmp_path, "flags : avx512_bf16")
    assert format_on_processor("large", measured(tmp_path, 0.97)) == "float32"
    assert format_on_processor("large", measured(tmp_path, 2.5)) == "float32"
    with_processor(monkeypatch, tmp_path, "flags : avx2")
    assert format_on_processor("large", measured(tmp_path, 0.6)) == "bfloat16"
    assert format_on_processor("small", measured(tmp_path, 0.6)) == "bfloat16"
    assert format_on_processor("small", measured(tmp_path, 0.95)) == "float32"
    assert format_on_processor(None, measured(tmp_path, 0.6)) == "float32", "never asked of dwarfs"
    assert format_on_processor("large", measured(tmp_path, 0.6, "another")) == "float32"
    before = measured(tmp_path, 0.6)
    with_processor(monkeypatch, tmp_path, "model name: another\nflags : avx2")
    assert format_on_processor("large", before) == "float32", "moved to another machine"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"bfloat16_time": 0.5}', "[" * 100_000])
def test_a_file_that_tells_nothing_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    with_processor(monkeypatch, tmp_path, "flags : avx512_bf16")
    (tmp_path / "large.json").write_text(text)
    assert format_on_processor("large", tmp_path) == "bfloat16"
    for share in ("0.5", True, -1, 0, None, float("inf"), float("nan")):
        assert format_on_processor("large", measured(tmp_path, share)) == "bfloat16"


@pytest.mark.django_db
def test_what_is_counted_follows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Any) -> None:
    model = ModelConfig.objects.get(pk="musicgen-small")
    demo = ModelConfig.objects.get(pk="musicgen-demo")
    with_processor(monkeypatch, tmp_path, "flags: fpu")
    whole = need_of(model, "cpu").needed_bytes
    with_processor(monkeypatch, tmp_path, "flags: avx512_bf16")
    assert (dtype_of(model, "cpu"), dtype_of(demo, "cpu")) == ("bfloat16", "float32")
    assert need_of(model, "cpu").needed_bytes < 0.75 * whole
    assert (dtype_of(model, "cuda"), dtype_of(model, "mps")) == ("bfloat16", "float32")
    settings.STUDIO = settings.STUDIO.model_copy(update={"dtype": "float32"})
    assert need_of(model, "cpu").needed_bytes == whole


@pytest.mark.django_db
def test_fewer_bits_need_less(settings: Any) -> None:
    model = ModelConfig.objects.get(pk="musicgen-small")
    needs = []
    for dtype in ("float32", "bfloat16", "int8", "int4"):
        settings.STUDIO = settings.STUDIO.model_copy(update={"dtype": dtype})
        needs.append(need_of(model, "cpu").needed_bytes)
    layer = 8 * 1024**2 + 2 * 1024 * 4096
    assert needs == sorted(needs, reverse=True)
    assert needs[1] - needs[2] == 24 * layer
    assert needs[1] - needs[3] == pytest.approx(layer + 23 * layer * (2 - 0.625), abs=1)
