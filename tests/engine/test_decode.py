"""The step loop, against the library's `generate` as the oracle."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from generation.engine.audio import decode_codes
from generation.engine.checkpoint import LoadedModel
from generation.engine.decode import CodesRequest, generate_codes
from generation.engine.delay import DelayPattern
from generation.engine.errors import EngineError
from generation.engine.prompt import encode_prompt
from generation.engine.protocol import INVALID_REQUEST, MAX_PROMPT_TOKENS, NON_FINITE
from generation.engine.sampling import Sampling
from tests.engine.conftest import Library

PROMPTS = ["slow piano", "a fast, heavy metal melody at 140 bpm with brushed drums and bells", ""]
LONGEST_SHIFT = 3


def codes_for(
    model: LoadedModel,
    prompt: str = "slow piano",
    *,
    frames: int = 12,
    guidance_scale: float = 3.0,
    seed: int = 0,
    stop_after: int | None = None,
    **sampling: Any,
) -> torch.Tensor:
    """Codes [K, T] of the engine; `stop_after` is the number of steps after which it is told to stop."""
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return stop_after is not None and asked > stop_after

    request = CodesRequest(
        conditioning=encode_prompt(model, prompt, guidance_scale),
        frames=frames,
        seed=seed,
        sampling=Sampling(**sampling),
    )
    return generate_codes(model, request, on_progress=lambda done: None, should_stop=should_stop)


@pytest.mark.parametrize("prompt", PROMPTS, ids=["short", "long", "empty"])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("frames", [3, 4, 60])
def test_greedy_equals_the_library(
    model: LoadedModel, library: Library, prompt: str, guidance_scale: float, frames: int
) -> None:
    wanted, audio = library.generate(
        prompt, do_sample=False, guidance_scale=guidance_scale, max_new_tokens=frames + LONGEST_SHIFT
    )
    got = codes_for(model, prompt, frames=frames, guidance_scale=guidance_scale, greedy=True)
    assert got.shape == (model.codebooks, frames)
    assert torch.equal(got, wanted)
    torch.testing.assert_close(torch.from_numpy(decode_codes(model, got)), audio)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.5])
@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
        {"temperature": 0.8, "top_k": 10, "top_p": 1.0},
        {"temperature": 1.3, "top_k": 25, "top_p": 0.9},
    ],
    ids=["free", "top-k", "all"],
)
def test_the_same_seed_draws_what_the_library_draws(
    model: LoadedModel, library: Library, guidance_scale: float, sampling: dict[str, Any]
) -> None:
    wanted, _ = library.generate(
        PROMPTS[1], seed=42, do_sample=True, guidance_scale=guidance_scale, max_new_tokens=43, **sampling
    )
    got = codes_for(model, PROMPTS[1], frames=40, guidance_scale=guidance_scale, seed=42, **sampling)
    assert torch.equal(got, wanted)


def test_it_equals_the_library_beyond_the_table_of_positions(model: LoadedModel, library: Library) -> None:
    table = model.network.decoder.model.decoder.embed_positions
    table.make_weights(10, table.embedding_dim)  # of 2048 in a real model, which is 41 s
    codes = codes_for(model, frames=40, guidance_scale=1.0, greedy=True)
    wanted, _ = library.generate(PROMPTS[0], do_sample=False, guidance_scale=1.0, max_new_tokens=43)
    assert torch.equal(codes, wanted)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_every_code_is_the_likeliest_after_those_before_it(
    model: LoadedModel, library: Library, frames: int
) -> None:
    # For one or two frames the library leaves the delay out, so here its plain forward pass is the oracle.
    codes = codes_for(model, frames=frames, guidance_scale=1.0, greedy=True)
    pattern = DelayPattern(codebooks=model.codebooks, channels=model.channels)
    ids = pattern.apply(codes, model.pad_token)
    inputs = library.processor(text=[PROMPTS[0]], return_tensors="pt")
    with torch.inference_mode():
        logits = library.network(**inputs, decoder_input_ids=ids[:, :-1]).logits  # [K, steps, V]
    used = pattern.open_positions(frames)[:, 1:]
    assert torch.equal(logits.argmax(dim=-1)[used], ids[:, 1:][used])


def test_prompt_seed_and_guidance_matter(model: LoadedModel) -> None:
    takes = [
        codes_for(model, frames=40),
        codes_for(model, "fast techno", frames=40),
        codes_for(model, frames=40, seed=1),
        codes_for(model, frames=40, guidance_scale=1.0),
        codes_for(model, frames=40, guidance_scale=0.0),
        codes_for(model, frames=40, temperature=0.5),
    ]
    assert len({str(take.tolist()) for take in takes}) == len(takes)


def test_without_guidance_the_prompt_alone_counts(model: LoadedModel) -> None:
    assert encode_prompt(model, "slow piano", 1.0).rows == 1
    guided = encode_prompt(model, "slow piano", 3.0).text
    assert guided.shape[0] == 2
    assert (guided[1] == 0).all()
    assert (guided[0] != 0).any()


def test_guidance_zero_ignores_the_prompt(model: LoadedModel) -> None:
    same = [codes_for(model, prompt, guidance_scale=0.0, greedy=True).tolist() for prompt in PROMPTS]
    assert same[0] == same[1] == same[2]


@pytest.mark.parametrize("steps", [0, 2, 3, 4, 17])
def test_stopped_it_hands_back_the_complete_frames(model: LoadedModel, steps: int) -> None:
    full = codes_for(model, frames=30, seed=5)
    part = codes_for(model, frames=30, seed=5, stop_after=steps)
    assert part.shape == (model.codebooks, max(0, steps - LONGEST_SHIFT))
    assert torch.equal(part, full[:, : part.shape[1]])


def test_a_longer_take_begins_like_a_shorter_one(model: LoadedModel) -> None:
    # But for the last frames, which are made while their first codebooks are past the end already.
    shorter, longer = codes_for(model, frames=12, seed=5), codes_for(model, frames=30, seed=5)
    assert torch.equal(longer[:, : 12 - LONGEST_SHIFT], shorter[:, : 12 - LONGEST_SHIFT])


def test_what_ran_before_does_not_matter(model: LoadedModel) -> None:
    first = codes_for(model, seed=8)
    codes_for(model, "something else", frames=50, seed=9)
    codes_for(model, stop_after=5)
    torch.manual_seed(1234)
    assert torch.equal(codes_for(model, seed=8), first)


def test_progress_counts_complete_frames(mono_model: LoadedModel) -> None:
    seen: list[int] = []
    request = CodesRequest(
        conditioning=encode_prompt(mono_model, "slow piano", 3.0), frames=5, seed=0, sampling=Sampling()
    )
    generate_codes(mono_model, request, on_progress=seen.append, should_stop=lambda: False)
    assert seen == [0, 0, 0, 1, 2, 3, 4, 5]


def test_output_that_is_no_number_is_an_error(mono_model: LoadedModel) -> None:
    head = mono_model.network.decoder.lm_heads[2].weight
    kept = head[7, 3].clone()
    head[7, 3] = torch.nan
    try:
        with pytest.raises(EngineError) as caught:
            codes_for(mono_model)
    finally:
        head[7, 3] = kept
    assert caught.value.error_code == NON_FINITE
    assert "float32" in caught.value.message
    assert codes_for(mono_model).shape == (4, 12)


def test_a_prompt_of_too_many_tokens_is_refused_with_both_figures(mono_model: LoadedModel) -> None:
    fits = "! " * ((MAX_PROMPT_TOKENS - 3) // 2)
    assert encode_prompt(mono_model, fits, 1.0).length <= MAX_PROMPT_TOKENS
    with pytest.raises(
        EngineError, match=r"801 tokens long; the model reads at most 512\. Shorten it\."
    ) as caught:
        encode_prompt(mono_model, "!" * 799, 1.0)
    assert caught.value.error_code == INVALID_REQUEST
