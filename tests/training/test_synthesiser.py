"""The synthesiser: sound of the right length, finite, never silent, never out of range, always the same."""

import numpy as np
import pytest

from generation.training.composer import compose
from generation.training.synthesiser import SAMPLES_PER_FRAME, TIMBRES, render, sustained


@pytest.mark.parametrize("seconds", [1.0, 4.0])
def test_pieces_are_heard(seconds: float) -> None:
    for seed in range(25):
        piece = compose(seed, seconds)
        audio = render(piece)
        assert audio.dtype == np.float32
        assert audio.shape == (piece.frames * SAMPLES_PER_FRAME,)
        assert np.isfinite(audio).all()
        assert np.abs(audio).max() <= 1
        assert np.sqrt(np.square(audio).mean()) > 0.005


def test_the_same_piece_sounds_the_same() -> None:
    assert np.array_equal(render(compose(5, 2.0)), render(compose(5, 2.0)))


@pytest.mark.parametrize("instrument", TIMBRES)
def test_a_note_has_its_pitch(instrument: str) -> None:
    audio = sustained(instrument, 69)[:16_000]
    magnitudes = np.abs(np.fft.rfft(audio))
    near_440 = magnitudes[430:451].max()
    assert near_440 > 0.3 * magnitudes.max()
    assert near_440 > 10 * magnitudes[:400].max()
