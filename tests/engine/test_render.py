"""One request from prompt to file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from generation.engine.checkpoint import LoadedModel
from generation.engine.company import render
from generation.engine.errors import EngineError
from generation.engine.protocol import ENGINE_ERROR, INVALID_REQUEST, OUT_OF_MEMORY
from generation.engine.render import Rendering
from tests.engine.conftest import generate


def rendered(model: LoadedModel, output: Path, *, stop_at: int | None = None, **options: Any) -> Rendering:
    """Render; with `stop_at` ask it to stop once so many frames are complete."""
    stages: list[tuple[str, int]] = []
    return render(
        model,
        generate(output, **options),
        on_stage=lambda stage, done, total: stages.append((stage, done)),
        should_stop=lambda: stop_at is not None and stages[-1][1] >= stop_at,
    )


def test_five_seconds_are_five_seconds(model: LoadedModel, tmp_path: Path) -> None:
    made = rendered(model, tmp_path / "a.wav", duration_seconds=5.0)
    assert made == Rendering(
        cancelled=False,
        frames=250,
        duration_seconds=5.0,
        output=tmp_path / "a.wav",
        seconds=made.seconds,
        work_seconds=made.work_seconds,
    )
    found = soundfile.info(made.output)
    assert found.frames == 5 * model.sample_rate
    assert found.channels == model.channels
    seconds = made.seconds
    assert min(seconds.encode, seconds.generate, seconds.decode) > 0
    assert 0.8 < made.work_seconds / (seconds.encode + seconds.generate + seconds.decode) <= 1, (
        "nobody beside it"
    )


def test_the_same_request_gives_the_same_bytes(model: LoadedModel, tmp_path: Path) -> None:
    rendered(model, tmp_path / "a.wav", seed=4)
    rendered(model, tmp_path / "other.wav", seed=5)
    rendered(model, tmp_path / "b.wav", seed=4)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert (tmp_path / "a.wav").read_bytes() != (tmp_path / "other.wav").read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        {"prompt": "fast techno"},
        {"guidance_scale": 1.0},
        {"temperature": 0.3},
        {"top_k": 1},
        {"top_p": 0.1},
        {"greedy": True},
    ],
    ids=str,
)
def test_every_setting_reaches_the_model(
    mono_model: LoadedModel, tmp_path: Path, options: dict[str, Any]
) -> None:
    rendered(mono_model, tmp_path / "a.wav")
    rendered(mono_model, tmp_path / "b.wav", **options)
    assert (tmp_path / "a.wav").read_bytes() != (tmp_path / "b.wav").read_bytes()


def test_stages_come_in_order_and_name_their_frames(mono_model: LoadedModel, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    render(
        mono_model,
        generate(tmp_path / "a.wav", duration_seconds=0.1),
        on_stage=lambda stage, done, total: seen.append((stage, done, total)),
        should_stop=lambda: False,
    )
    counts = [("generating", done, 5) for done in (0, 0, 0, 0, 1, 2, 3, 4, 5)]
    assert seen == [("encoding", 0, 5), *counts, ("decoding", 5, 5)]


def test_cancelled_it_writes_what_was_made(model: LoadedModel, tmp_path: Path) -> None:
    made = rendered(model, tmp_path / "a.wav", duration_seconds=2.0, stop_at=30)
    assert (made.cancelled, made.frames, made.duration_seconds) == (True, 30, 0.6)
    assert soundfile.info(made.output).frames == 30 * model.samples_per_frame


def test_cancelled_before_the_first_frame_it_writes_nothing(model: LoadedModel, tmp_path: Path) -> None:
    made = rendered(model, tmp_path / "a.wav", stop_at=0)
    assert (made.cancelled, made.frames, made.duration_seconds, made.output) == (True, 0, 0.0, None)
    assert list(tmp_path.iterdir()) == []


def test_a_stop_after_the_last_frame_comes_too_late(mono_model: LoadedModel, tmp_path: Path) -> None:
    made = rendered(mono_model, tmp_path / "a.wav", stop_at=25)
    assert (made.cancelled, made.frames) == (False, 25)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("duration_seconds", 0.0),
        ("duration_seconds", -1.0),
        ("duration_seconds", math.nan),
        ("duration_seconds", math.inf),
        ("seed", -1),
        ("seed", 2**63),
        ("guidance_scale", -0.1),
        ("guidance_scale", math.nan),
        ("temperature", 0.0),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", -0.1),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("output", "/nowhere/a.wav"),
        ("output", "a.wav"),
        ("output", "/a.mp3"),
        ("prompt", "half a character \ud83d"),
    ],
)
def test_it_refuses_what_no_model_can_do(
    mono_model: LoadedModel, tmp_path: Path, name: str, value: object
) -> None:
    options: dict[str, Any] = {"output": tmp_path / "a.wav", name: value}
    with pytest.raises(EngineError) as caught:
        rendered(mono_model, **options)
    assert caught.value.error_code == INVALID_REQUEST
    assert caught.value.message.endswith(".")
    assert name in caught.value.message.lower()
    assert list(tmp_path.iterdir()) == []


def test_the_largest_seed_is_a_seed(mono_model: LoadedModel, tmp_path: Path) -> None:
    assert rendered(mono_model, tmp_path / "a.wav", seed=2**63 - 1).frames == 25


def test_running_out_of_memory_is_told_and_survived(mono_model: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        rendered(mono_model, tmp_path / "a.wav", duration_seconds=1e15)  # more than any machine can address
    assert caught.value.error_code == OUT_OF_MEMORY
    assert "shorter" in caught.value.message
    assert rendered(mono_model, tmp_path / "a.wav").frames == 25


def test_a_surprise_is_an_error_of_the_engine(
    mono_model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> torch.Tensor:
        raise RuntimeError("boom")

    monkeypatch.setattr(mono_model.network.audio_encoder.quantizer, "decode", fail)
    with pytest.raises(EngineError) as caught:
        rendered(mono_model, tmp_path / "a.wav")
    assert caught.value.error_code == ENGINE_ERROR
    assert caught.value.detail == "RuntimeError: boom"
    assert list(tmp_path.iterdir()) == []
