"""Codes to samples, samples to a file."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from generation.engine.audio import decode_codes, write_wav
from generation.engine.checkpoint import LoadedModel
from generation.engine.chunks import decode_take


def random_codes(model: LoadedModel, frames: int) -> torch.Tensor:
    return torch.randint(32, (model.codebooks, frames), generator=torch.Generator().manual_seed(frames))


@pytest.mark.parametrize("frames", [1, 2, 3, 50, 250])
def test_audio_is_exactly_as_long_as_its_frames(model: LoadedModel, frames: int) -> None:
    samples = decode_codes(model, random_codes(model, frames))
    assert samples.shape == (model.channels, frames * model.samples_per_frame)
    assert samples.dtype == np.float32
    assert model.samples_per_frame * model.frame_rate == model.sample_rate


@pytest.mark.parametrize("frames", [1, 3, 50])
@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_a_take_sounds_as_if_its_last_frame_went_on(
    model: LoadedModel, frames: int, chunk: int | None
) -> None:
    codes = random_codes(model, frames)
    going_on = decode_codes(model, torch.cat([codes, codes[:, -1:].expand(-1, 20)], dim=1))
    samples = decode_take(model, codes, chunk)
    assert samples.shape == (model.channels, frames * model.samples_per_frame)
    np.testing.assert_allclose(samples, going_on[:, : samples.shape[1]], atol=1e-5)


def test_left_and_right_come_from_their_own_codebooks(tmp_path: Path) -> None:
    from generation.engine.checkpoint import load_checkpoint
    from tests.engine.dwarf import build_dwarf

    model = load_checkpoint(str(build_dwarf(tmp_path, channels=2)), device="cpu")
    codes = random_codes(model, 40)
    left, right = decode_codes(model, codes)
    assert not np.allclose(left, right)
    swapped = codes.view(4, 2, 40).flip(1).reshape(8, 40)
    np.testing.assert_allclose(decode_codes(model, swapped), [right, left], atol=1e-6)


def test_every_codebook_is_heard(mono_model: LoadedModel) -> None:
    codes = random_codes(mono_model, 20)
    before = decode_codes(mono_model, codes)
    for codebook in range(4):
        changed = codes.clone()
        changed[codebook] = (changed[codebook] + 1) % 32
        assert np.abs(decode_codes(mono_model, changed) - before).max() > 1e-3


@pytest.mark.parametrize("channels", [1, 2])
def test_a_file_holds_the_samples_bit_by_bit(tmp_path: Path, channels: int) -> None:
    samples = np.random.default_rng(0).normal(size=(channels, 999)).astype(np.float32)  # also beyond -1..1
    path = tmp_path / "take.wav"
    write_wav(path, samples, 32_000)
    found = soundfile.info(path)
    assert (found.samplerate, found.channels, found.frames) == (32_000, channels, 999)
    assert (found.format, found.subtype) == ("WAV", "FLOAT")
    read, _ = soundfile.read(path, dtype="float32", always_2d=True)
    assert np.array_equal(read.T, samples)
    assert [each.name for each in tmp_path.iterdir()] == ["take.wav"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "take.wav"
    write_wav(path, np.zeros((1, 10), np.float32), 800)
    before = path.read_bytes()
    (tmp_path / ".take.wav.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_wav(path, np.ones((1, 10), np.float32), 800)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["take.wav"]
