"""What is heard of a take while it is made is the take: at every border of a chunk, alone, in company and when cancelled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from transformers import EncodecConfig, EncodecModel

from generation.engine.adapters.attach import Attachment
from generation.engine.audio import decode_codes
from generation.engine.checkpoint import LoadedModel, load_checkpoint
from generation.engine.chunks import ChunkDecoder, can_be_chunked
from generation.engine.company import Company, render
from generation.engine.live import CEILING, NEXT_SECONDS, LiveAudio
from generation.engine.protocol import Generate
from generation.engine.render import Rendering
from tests.engine.conftest import DEMO, generate

#: Steps of 16 bits by which live audio and the file may differ: one for rounding, one for the codec's own.
BOUND = 2


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    """The demo model, whose music is music."""
    return load_checkpoint(str(DEMO), device="cpu", dtype="bfloat16")


class Ear:
    """Hears one take: its chunks in the order in which they were told."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.chunks: list[npt.NDArray[np.int16]] = []
        self.is_complete = False
        self.frames_made: list[int] = []  # when each chunk was told
        self.frames = 0

    def on_audio(self, chunk: int, path: Path, is_last: bool) -> None:
        assert chunk == len(self.chunks)
        assert not self.is_complete
        self.chunks.append(np.fromfile(path, dtype="<i2").reshape(-1, self.channels))
        path.unlink()
        self.is_complete = is_last
        self.frames_made.append(self.frames)

    def on_stage(self, stage: str, done: int, total: int) -> None:
        self.frames = done

    @property
    def heard(self) -> npt.NDArray[np.int16]:
        return np.concatenate(self.chunks)


def live_request(folder: Path, name: str, **options: Any) -> Generate:
    return generate(folder / f"{name}.wav", name, live=str(folder / name), **options)


def file_of(request: Generate) -> npt.NDArray[np.float32]:
    samples: npt.NDArray[np.float32] = soundfile.read(request.output, dtype="float32", always_2d=True)[0]
    return samples


def assert_same_sound(ear: Ear, request: Generate) -> None:
    expected = np.rint(file_of(request).astype(np.float64) * 32767)
    assert ear.heard.shape == expected.shape
    assert np.abs(ear.heard - expected).max() <= BOUND


def alone(model: LoadedModel, request: Generate, **options: Any) -> tuple[Rendering, Ear]:
    ear = Ear(model.channels)
    stop_at = options.get("stop_at")
    made = render(
        model,
        request,
        on_stage=ear.on_stage,
        should_stop=lambda: ear.frames == stop_at,
        on_audio=ear.on_audio,
    )
    return made, ear


def test_it_is_the_take_and_leaves_the_file_as_it_is(demo: LoadedModel, tmp_path: Path) -> None:
    request = live_request(tmp_path, "live", duration_seconds=2.0, prompt="calm music box lullaby")
    made, ear = alone(demo, request)
    plain = generate(tmp_path / "plain.wav", "plain", duration_seconds=2.0, prompt="calm music box lullaby")
    alone(demo, plain)
    assert Path(request.output).read_bytes() == Path(plain.output).read_bytes()
    assert_same_sound(ear, request)
    assert np.abs(ear.heard).max() > 1000
    assert ear.is_complete
    assert made.frames == 100
    # Half a second first, then whole ones; what is told waits for a few frames after it and for no more.
    assert [len(chunk) for chunk in ear.chunks] == [8000, 16000, 8000]
    assert ear.frames_made[:2] == [25 + 5, 75 + 5]
    assert {each.name for each in tmp_path.iterdir()} == {"live.wav", "plain.wav"}


def test_each_of_a_company_is_heard_by_itself(model: LoadedModel, tmp_path: Path) -> None:
    company = Company(model, Attachment())
    requests = [
        live_request(tmp_path, str(number), seed=number, duration_seconds=1.0 + 0.3 * number)
        for number in range(4)
    ]
    ears = [Ear(model.channels) for _ in requests]
    told_in_a_step: list[int] = []
    for request, ear in zip(requests, ears, strict=True):
        company.add(request, on_stage=ear.on_stage, should_stop=lambda: False, on_audio=ear.on_audio)
    while not company.is_idle:
        before = sum(len(ear.chunks) for ear in ears)
        ended = company.advance()
        told_in_a_step.append(sum(len(ear.chunks) for ear in ears) - before - len(ended))
    assert max(told_in_a_step) == 1  # nobody waits for the chunks of all
    for request, ear in zip(requests, ears, strict=True):
        assert_same_sound(ear, request)
        assert len(ear.chunks) > 1
        plain = generate(tmp_path / "plain.wav", seed=request.seed, duration_seconds=request.duration_seconds)
        alone(model, plain)
        assert Path(request.output).read_bytes() == Path(plain.output).read_bytes()


@pytest.mark.parametrize("stop_at", [1, 29, 30, 31, 40])
def test_a_cancelled_take_is_heard_to_its_end(mono_model: LoadedModel, tmp_path: Path, stop_at: int) -> None:
    request = live_request(tmp_path, "stopped", duration_seconds=2.0)
    made, ear = alone(mono_model, request, stop_at=stop_at)
    assert (made.cancelled, made.frames) == (True, stop_at)
    assert ear.is_complete
    assert_same_sound(ear, request)


@pytest.mark.parametrize("stop_at", [None, 70])
def test_a_take_in_windows_is_heard_as_one(model: LoadedModel, tmp_path: Path, stop_at: int | None) -> None:
    windows = {"window_seconds": 1.0, "stride_seconds": 0.6}
    request = live_request(tmp_path, "long", duration_seconds=3.0, **windows)
    made, ear = alone(model, request, stop_at=stop_at)
    assert made.frames == (stop_at or 150)
    assert ear.is_complete
    assert_same_sound(ear, request)


@pytest.fixture(scope="module")
def old_take(demo: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    request = generate(
        tmp_path_factory.mktemp("old") / "old.wav", duration_seconds=3.1, prompt="calm music box lullaby"
    )
    alone(demo, request)
    return request.output


@pytest.mark.parametrize(
    ("seconds", "lead", "stop_at", "windows"),
    [
        (3.01, 1.0, None, {}),
        (3.01, 1.0, None, {"window_seconds": 3.0, "stride_seconds": 1.2}),
        (0.41, 0.4, None, {}),  # all frames that it has
        (3.01, 1.0, 3, {}),  # before anything was heard
        (3.01, 1.0, 40, {}),
    ],
)
def test_what_goes_on_is_heard_from_a_second_before(
    demo: LoadedModel,
    old_take: str,
    tmp_path: Path,
    seconds: float,
    lead: float,
    stop_at: int | None,
    windows: dict[str, Any],
) -> None:
    options = {"prompt": "calm piano", "duration_seconds": 1.5, **windows}
    request = live_request(tmp_path, "further", beginning=old_take, beginning_seconds=seconds, **options)
    made, ear = alone(demo, request, stop_at=stop_at)
    expected = np.rint(file_of(request).astype(np.float64) * 32767)
    assert expected.shape[0] == round(seconds * 16000) + made.frames * 320
    assert made.frames == (stop_at or 75)
    assert ear.heard.shape[0] == round(lead * 16000) + made.frames * 320
    assert np.abs(ear.heard - expected[-len(ear.heard) :]).max() <= BOUND
    assert ear.is_complete
    if not stop_at:
        assert [len(chunk) for chunk in ear.chunks] == [round(lead * 16000) + 8000, 16000]
        assert ear.frames_made[0] == 25 + 5
        plain = generate(
            tmp_path / "plain.wav", "plain", beginning=old_take, beginning_seconds=seconds, **options
        )
        alone(demo, plain)
        assert Path(request.output).read_bytes() == Path(plain.output).read_bytes()


def test_where_chunks_cannot_be_written_the_take_is_made_all_the_same(
    mono_model: LoadedModel, tmp_path: Path
) -> None:
    request = generate(tmp_path / "take.wav", live=str(tmp_path / "nowhere" / "take"), duration_seconds=1.0)
    made, ear = alone(mono_model, request)
    assert (made.frames, ear.chunks) == (50, [])
    assert {each.name for each in tmp_path.iterdir()} == {"take.wav"}


def test_one_that_nobody_wants_to_hear_early_is_not_decoded_twice(
    mono_model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LiveAudio, "tell", lambda *arguments: pytest.fail("decoded"))
    _, ear = alone(mono_model, generate(tmp_path / "take.wav", duration_seconds=1.0))
    assert ear.chunks == []


def test_loud_audio_is_turned_down_smoothly_and_stays_so(mono_model: LoadedModel, tmp_path: Path) -> None:
    ear = Ear(1)
    live = LiveAudio(mono_model, str(tmp_path / "loud"), ear.on_audio)
    wave = np.sin(np.arange(8000) / 40)[None].astype(np.float32)
    for level in (0.5, 2.0, 0.5):
        ear.is_complete = False
        live.conclude(level * wave)
    quiet, loud, after = (chunk[:, 0] / 32767 for chunk in ear.chunks)
    assert np.abs(quiet - 0.5 * wave[0]).max() < 1e-4
    assert np.abs(loud).max() <= CEILING + 1e-4
    assert np.abs(loud[8:] - CEILING * wave[0, 8:]).max() < 1e-3  # 10 ms at the dwarf's 800 samples a second
    assert np.abs(after - 0.5 * CEILING / 2 * wave[0]).max() < 1e-3
    fade = np.linspace(1, CEILING / 2, 8)
    assert np.abs(loud[:8] - fade * 2 * wave[0, :8]).max() < 1e-3  # from where it was


@pytest.fixture(scope="module")
def full_size_codec(demo: LoadedModel) -> EncodecModel:
    """Of the shape of facebook/encodec_32khz, with random weights."""
    torch.manual_seed(0)
    config = EncodecConfig(
        sampling_rate=32_000,
        num_filters=64,
        upsampling_ratios=[8, 5, 4, 4],
        codebook_size=2048,
        codebook_dim=128,
        target_bandwidths=[2.2],
        use_causal_conv=False,
        use_conv_shortcut=False,
    )
    codec = EncodecModel(config).eval()
    for layer in codec.quantizer.layers:
        layer.codebook.embed.normal_()
    return codec


class Sized:
    """As much of a loaded model as decoding needs."""

    def __init__(self, codec: EncodecModel) -> None:
        self.network = type("Network", (), {"audio_encoder": codec})
        self.device, self.channels = torch.device("cpu"), 1
        self.samples_per_frame, self.frame_rate, self.sample_rate = 640, 50, 32_000


def test_the_codec_of_the_official_models_differs_by_rounding_alone(full_size_codec: EncodecModel) -> None:
    model: Any = Sized(full_size_codec)
    assert can_be_chunked(model)
    codes = torch.randint(2048, (4, 60), generator=torch.Generator().manual_seed(1))
    decoder = ChunkDecoder(model)
    assert decoder.held_back == 5
    parts = [decoder.further(codes[:, :until]) for until in (30, 31, 55)]
    heard, whole = np.concatenate(parts, axis=1), decode_codes(model, codes)[:, : 50 * 640]
    assert heard.shape == whole.shape
    noise = float(np.square(heard - whole).sum())
    assert 10 * np.log10(float(np.square(whole).sum()) / noise) > 100
    assert np.abs(heard - whole).max() < 1e-5
    assert NEXT_SECONDS * model.frame_rate == 50
    # A norm over time needs the whole take.
    full_size_codec.config.norm_type = "time_group_norm"
    assert not can_be_chunked(model)
