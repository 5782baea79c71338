"""A take that goes on from audio: the codec's codes of it begin the first window, and its sound the new take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from generation.engine.audio import decode_codes
from generation.engine.beginning import Beginning, joined, read_beginning
from generation.engine.checkpoint import LoadedModel, load_checkpoint
from generation.engine.chunks import decode_take
from generation.engine.company import render
from generation.engine.decode import generate_codes
from generation.engine.errors import EngineError
from generation.engine.linear_prediction import gone_on
from generation.engine.protocol import BEGINNING_UNREADABLE, Generate
from generation.engine.render import Rendering
from generation.engine.resampling import resampled
from generation.engine.sampling import Sampling
from tests.engine.conftest import DEMO, generate
from tests.engine.test_windows import PROMPT, request_of

FADE = 16  # samples of 0.02 s at the dwarf's rate


def made(model: LoadedModel, request: Generate, *, stop_at: int | None = None) -> tuple[Rendering, Any]:
    """The rendering and its samples [channels, n]."""
    seen: list[int] = []
    rendering = render(
        model,
        request,
        on_stage=lambda stage, done, total: seen.append(done),
        should_stop=lambda: stop_at is not None and bool(seen) and seen[-1] == stop_at,
    )
    assert min(seen) == 0
    return rendering, soundfile.read(request.output, dtype="float32", always_2d=True)[0].T


@pytest.fixture
def source(model: LoadedModel, tmp_path: Path) -> Path:
    """A second of a take, and 9 samples."""
    made(model, generate(tmp_path / "source.wav", duration_seconds=1.2))
    samples, rate = soundfile.read(tmp_path / "source.wav", dtype="float32", always_2d=True)
    soundfile.write(tmp_path / "cut.wav", samples[: rate + 9], rate, "FLOAT")
    return tmp_path / "cut.wav"


def continued(source: Path, name: str, **options: Any) -> Generate:
    fields = {
        "duration_seconds": 0.5,
        "seed": 5,
        "beginning": str(source),
        "beginning_seconds": 1.0,
        **options,
    }
    return generate(source.with_name(f"{name}.wav"), name, prompt=PROMPT, **fields)


@pytest.mark.parametrize(
    "windows", [{}, {"window_seconds": 0.6, "stride_seconds": 0.3}], ids=["whole", "windows"]
)
def test_the_old_goes_over_into_the_new(model: LoadedModel, source: Path, windows: dict[str, Any]) -> None:
    rendering, samples = made(model, continued(source, "new", **windows))
    old = soundfile.read(source, dtype="float32", always_2d=True)[0].T
    assert (rendering.frames, rendering.duration_seconds, samples.shape[1]) == (25, 1.5, 1200)
    assert np.array_equal(samples[:, : 800 - FADE], old[:, : 800 - FADE])
    begun = read_beginning(model, str(source), seconds=1.0, most=15 if windows else None)
    assert begun.codes.shape == (model.codebooks, 15 if windows else 50)
    codes = generate_codes(
        model,
        request_of(
            model, frames=begun.codes.shape[1] + 25, seed=5, beginning=begun.codes, sampling=Sampling(),
            **({"window": 30, "stride": 15} if windows else {"window": None}),
        ),
        on_progress=lambda done: None,
        should_stop=lambda: False,
    )  # fmt: skip
    assert torch.equal(codes[:, : begun.codes.shape[1]], begun.codes)
    whole = decode_take(model, codes)
    assert abs(samples[:, 800:] - whole[:, begun.codes.shape[1] * 16 :]).max() < 1e-5
    # Another beginning, another music.
    other = made(model, continued(source, "other", beginning_seconds=0.8, **windows))[1]
    assert not np.array_equal(other[:, 640:], samples[:, 800:])


def test_left_and_right_stay_where_they_are(model: LoadedModel, source: Path, tmp_path: Path) -> None:
    sides = soundfile.read(source, always_2d=True)[0]
    soundfile.write(tmp_path / "swapped.wav", sides[:, ::-1], model.sample_rate, "FLOAT")
    codes, swapped = (
        read_beginning(model, str(path), seconds=1.0, most=None).codes
        for path in (source, tmp_path / "swapped.wav")
    )
    for side in range(model.channels):
        other = model.channels - 1 - side
        assert torch.equal(codes[side :: model.channels], swapped[other :: model.channels])
    # Codebooks follow each other as the decoder reads them: what they say together is nearest to what was heard.
    assert model.channels == 1 or not torch.equal(codes[0::2], codes[1::2])


@pytest.mark.parametrize("rate", [800, 1600])
def test_the_codec_hears_what_follows_and_what_came_before(
    rate: int, model: LoadedModel, source: Path, tmp_path: Path
) -> None:
    samples = soundfile.read(source, dtype="float32", always_2d=True)[0]
    soundfile.write(tmp_path / "a.wav", samples.repeat(rate // 800, axis=0), rate, "FLOAT")
    whole = read_beginning(model, str(tmp_path / "a.wav"), seconds=1.0, most=None).codes
    part = read_beginning(model, str(tmp_path / "a.wav"), seconds=0.7, most=None)
    assert part.samples.shape == (model.channels, 560)
    assert torch.equal(part.codes, whole[:, :35])
    # Of all before a window the codec's recurrent layer knows only what is near.
    last = read_beginning(model, str(tmp_path / "a.wav"), seconds=0.7, most=15)
    assert (last.codes == whole[:, 20:35]).float().mean() > 0.9


def test_where_a_file_ends_its_sound_goes_on(tmp_path: Path) -> None:
    """Of the last three frames of 19 pieces most codes are those of the whole; with silence after them 29% were."""
    demo = load_checkpoint(str(DEMO), device="cpu", dtype="float32")
    samples = made(demo, generate(tmp_path / "a.wav", duration_seconds=4.0, prompt="calm piano"))[1]
    whole = read_beginning(demo, str(tmp_path / "a.wav"), seconds=4.0, most=None).codes
    agreement = []
    for frames in range(100, 195, 5):
        soundfile.write(tmp_path / "b.wav", samples[:, : frames * demo.samples_per_frame].T, demo.sample_rate)
        found = read_beginning(
            demo, str(tmp_path / "b.wav"), seconds=frames / demo.frame_rate, most=None
        ).codes
        same = found == whole[:, :frames]
        assert same[:, :-5].all()
        agreement.append(same[:, -3:].float().mean())
    assert np.mean(agreement) > 0.45


def test_what_is_predicted() -> None:
    tone = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(20_000) / 16_000)
    both = gone_on(torch.stack([tone[:18_400], torch.zeros(18_400)]), 1600)
    assert both.shape == (2, 20_000)
    assert abs(both[0] - tone).max() < 0.02
    assert not both[1].any()
    noise = torch.randn(1, 9000, generator=torch.Generator().manual_seed(0))
    assert gone_on(noise, 16_000)[:, 9000:].abs().max() < noise.abs().max()
    for short in (1, 2, 5):
        assert gone_on(torch.ones(1, short), 8).shape == (1, short + 8)


def test_other_channels_are_mixed(model: LoadedModel, source: Path, tmp_path: Path) -> None:
    old = soundfile.read(source, dtype="float32", always_2d=True)[0]  # [S, C]
    if model.channels == 1:
        other = np.stack([old[:, 0] * 0.5, old[:, 0] * 1.5], axis=1)  # their mean is the old one
    else:
        other = old.mean(axis=1, keepdims=True)
        old = np.repeat(other, 2, axis=1)
    path = tmp_path / "other.flac"
    soundfile.write(path, other / 2, model.sample_rate)
    begun = read_beginning(model, str(path), seconds=1.0, most=None)
    assert begun.samples.shape == (model.channels, model.sample_rate)
    assert abs(begun.samples - old[: model.sample_rate].T / 2).max() < 1e-4
    samples = made(model, continued(path, "new"))[1]
    assert samples.shape == (model.channels, 1200)
    assert np.array_equal(samples[:, : 800 - FADE], begun.samples[:, : 800 - FADE])


def test_stopped_it_keeps_the_old_and_what_was_made(mono_model: LoadedModel, tmp_path: Path) -> None:
    made(mono_model, generate(tmp_path / "source.wav", duration_seconds=1.2))
    full = made(mono_model, continued(tmp_path / "source.wav", "full"))[1]
    rendering, part = made(mono_model, continued(tmp_path / "source.wav", "part"), stop_at=7)
    assert (rendering.cancelled, rendering.frames) == (True, 7)
    assert part.shape[1] == 800 + 7 * 16
    assert np.array_equal(part[:, : 800 - FADE], full[:, : 800 - FADE])


def test_the_joint_fades(mono_model: LoadedModel) -> None:
    codes = torch.zeros(4, 10, dtype=torch.long)
    silent = Beginning(np.zeros((1, 800), dtype=np.float32), codes)
    ones = np.ones((1, 20 * 16), dtype=np.float32)
    samples = joined(mono_model, silent, ones)[0]
    assert samples.shape == (800 + 10 * 16,)
    assert (samples[: 800 - FADE] == 0).all()
    assert (samples[800:] == 1).all()
    assert (np.diff(samples[800 - FADE : 800]) > 0).all()


def test_another_rate_becomes_the_models() -> None:
    for rate, wanted in ((32_000, 16_000), (16_000, 32_000), (44_100, 32_000)):
        tone = [
            np.sin(2 * np.pi * 440 * np.arange(each) / each).astype(np.float32) for each in (rate, wanted)
        ]
        found = resampled(torch.from_numpy(tone[0])[None], rate, wanted)[0].numpy()
        assert found.shape == (wanted,)
        inside = slice(wanted // 20, -wanted // 20)
        assert abs(found[inside] - tone[1][inside]).max() < 1e-3
    high = np.sin(2 * np.pi * 12_000 * np.arange(32_000) / 32_000).astype(
        np.float32
    )  # above what 16 kHz can hold
    assert abs(resampled(torch.from_numpy(high)[None], 32_000, 16_000)[0, 800:-800]).max() < 1e-2


def test_the_shipped_codec_says_again_what_it_heard(tmp_path: Path) -> None:
    demo = load_checkpoint(str(DEMO), device="cpu", dtype="float32")
    samples = made(demo, generate(tmp_path / "a.wav", duration_seconds=1.0, prompt="calm music box lullaby"))[
        1
    ]
    begun = read_beginning(demo, str(tmp_path / "a.wav"), seconds=1.0, most=None)
    again = decode_codes(demo, begun.codes)
    assert again.shape == samples.shape
    assert np.corrcoef(again[0], samples[0])[0, 1] > 0.8


@pytest.mark.parametrize("wrong", ["missing", "no sound", "too short"])
def test_what_cannot_be_gone_on_from_is_refused(wrong: str, mono_model: LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    if wrong == "no sound":
        path.write_bytes(b"RIFF of nothing")
    elif wrong != "missing":
        soundfile.write(path, np.zeros((400, 1), dtype=np.float32), 800)
    with pytest.raises(EngineError) as refused:
        made(mono_model, continued(path, "new"))
    assert refused.value.error_code == BEGINNING_UNREADABLE
