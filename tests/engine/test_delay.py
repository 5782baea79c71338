"""The delay pattern and the arithmetic of frames."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import MusicgenDecoderConfig, MusicgenForCausalLM

from generation.engine.delay import DelayPattern
from generation.engine.frames import frames_for

PATTERNS = st.builds(
    lambda per_channel, channels: DelayPattern(codebooks=per_channel * channels, channels=channels),
    st.integers(1, 9),
    st.sampled_from([1, 2]),
)


def codes_of(pattern: DelayPattern, frames: int) -> torch.Tensor:
    """Codes [K, T] in which every number says where it belongs."""
    return torch.arange(pattern.codebooks * frames).reshape(pattern.codebooks, frames)


@given(PATTERNS, st.integers(1, 40))
def test_undoing_the_delay_gives_the_codes_back(pattern: DelayPattern, frames: int) -> None:
    codes = codes_of(pattern, frames)
    ids = pattern.apply(codes, pad_token=-7)
    assert ids.shape == (pattern.codebooks, 1 + pattern.steps_for(frames))
    assert torch.equal(pattern.undo(ids, frames), codes)
    assert int((ids == -7).sum()) == ids.numel() - codes.numel()
    assert (ids[:, 0] == -7).all()


@given(PATTERNS, st.integers(1, 40), st.data())
def test_cut_short_it_gives_a_prefix_of_the_codes(
    pattern: DelayPattern, frames: int, data: st.DataObject
) -> None:
    codes = codes_of(pattern, frames)
    ids = pattern.apply(codes, pad_token=-7)
    steps = data.draw(st.integers(0, pattern.steps_for(frames)))
    ids[:, 1 + steps :] = -99  # not made yet
    complete = pattern.complete_frames(steps)
    assert torch.equal(pattern.undo(ids, complete), codes[:, :complete])
    if complete < frames:  # and not one frame more is complete
        assert (pattern.undo(ids, complete + 1) == -99).any()


@given(PATTERNS, st.integers(1, 40))
def test_all_steps_make_all_frames(pattern: DelayPattern, frames: int) -> None:
    assert pattern.complete_frames(pattern.steps_for(frames)) == frames


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("frames", [3, 4, 17])
def test_it_is_the_pattern_of_the_library(channels: int, frames: int) -> None:
    codebooks, pad = 4 * channels, 8
    sizes = {
        "hidden_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "ffn_dim": 4,
        "vocab_size": 8,
    }
    config = MusicgenDecoderConfig(
        num_codebooks=codebooks, audio_channels=channels, pad_token_id=pad, **sizes
    )
    pattern = DelayPattern(codebooks=codebooks, channels=channels)
    start = torch.full((codebooks, 1), pad)
    _, mask = MusicgenForCausalLM(config).build_delay_pattern_mask(
        start, pad_token_id=pad, max_length=1 + pattern.steps_for(frames)
    )
    assert torch.equal(pattern.open_positions(frames), mask == -1)


def test_left_and_right_share_a_delay() -> None:
    assert DelayPattern(codebooks=8, channels=2).shifts == [0, 0, 1, 1, 2, 2, 3, 3]
    assert DelayPattern(codebooks=4, channels=1).shifts == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("seconds", "frame_rate", "frames"),
    [
        (5, 50, 250),
        (0.001, 50, 1),
        (1e-12, 50, 1),
        (0.02, 50, 1),
        (0.021, 50, 2),
        (0.1 * 3, 50, 15),
        (4.35, 100, 435),
        (30, 75, 2250),
    ],
)
def test_seconds_become_frames(seconds: float, frame_rate: int, frames: int) -> None:
    assert frames_for(seconds, frame_rate) == frames


@given(st.integers(1, 100_000), st.integers(1, 200))
def test_a_whole_number_of_frames_is_never_rounded_up(frames: int, frame_rate: int) -> None:
    assert frames_for(frames / frame_rate, frame_rate) == frames


@given(st.floats(1e-6, 1e4), st.integers(1, 200))
def test_frames_hold_the_duration_and_hardly_more(seconds: float, frame_rate: int) -> None:
    frames = frames_for(seconds, frame_rate)
    wanted = Fraction(seconds) * frame_rate
    assert frames >= wanted - Fraction(1, 10**8)
    assert frames < wanted + 1 or frames == 1


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_no_frames_for_no_duration(seconds: float) -> None:
    with pytest.raises(ValueError, match="finite number of seconds above zero"):
        frames_for(seconds, 50)
