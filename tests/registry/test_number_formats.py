"""Which format a processor gets: what the web process counts is what the runner holds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry import number_formats
from registry.fit import dtype_of, need_of
from registry.models import ModelConfig
from registry.number_formats import format_on_processor, multiplies_bfloat16

SMALL = {"layers": 24, "hidden": 1024, "intermediate": 4096}


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    yield
    multiplies_bfloat16.cache_clear()


def with_processor(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    """A machine whose kernel says that of its processor."""
    (folder / "cpuinfo").write_text(text)
    monkeypatch.setattr(number_formats, "Path", lambda path: folder / Path(path).name)
    multiplies_bfloat16.cache_clear()


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
    assert format_on_processor(**SMALL) == wanted
    assert format_on_processor(layers=6, hidden=256, intermediate=1024) == "float32", "the demo's"


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
    layers = 24 * (8 * 1024**2 + 2 * 1024 * 4096)
    assert needs == sorted(needs, reverse=True)
    assert needs[1] - needs[2] == layers
    assert needs[1] - needs[3] == pytest.approx(layers * (2 - 0.625), abs=1)
