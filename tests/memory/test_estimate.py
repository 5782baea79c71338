"""Bytes of weights, caches and activations, and the questions asked backwards."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gated_configs.memory import (
    CARDS,
    Architecture,
    DoesNotFit,
    Request,
    describe,
    estimate,
    find_card,
    largest_batch,
    longest_context,
    longest_take,
    smallest_card,
)
from gated_configs.memory.dtypes import CACHE_FORMATS, WEIGHT_FORMATS
from tests.memory.conftest import sample_config

NAMES = [
    "llama-3-8b",
    "gemma-2-2b",
    "jamba-v0.1",
    "deepseek-v2-lite",
    "t5-small",
    "musicgen-small",
    "bert-base-uncased",
]


def test_formats_count_their_scales() -> None:
    # GPTQ, one row of 4096: 2048 bytes, and 32 groups of one float16 and half a byte.
    assert WEIGHT_FORMATS["int4"].bytes_of(1, 4096) == 2048 + 32 * 2.5
    # llama.cpp: block_q8_0 is 34 bytes for 32 elements, block_q4_K 144 for 256.
    assert WEIGHT_FORMATS["q8_0"].bytes_of(1, 32) == 34
    assert WEIGHT_FORMATS["q4_k"].bytes_of(1, 256) == 144
    assert WEIGHT_FORMATS["mxfp4"].bytes_of(2, 64) == 2 * (32 + 2)
    assert WEIGHT_FORMATS["nf4"].bits_per_element == pytest.approx(4.127, abs=0.001)
    assert CACHE_FORMATS["int4"].bytes_of(1, 128) == 64 + 2 * 4


def test_weights_by_format(llama: Architecture) -> None:
    total = llama.parameters.total
    buffers = 4 * llama.parameters.buffers
    assert estimate(llama, Request(weights="bf16")).weight_bytes == 2 * total + buffers
    assert estimate(llama, Request(weights="fp32")).weight_bytes == 4 * total + buffers
    quantised = estimate(llama, Request(weights="int4")).weight_bytes
    # Embedding, head and norms of Llama 3 8B stay in 16 bits: 1.05 of 8.03 billion.
    kept = sum(llama.parameters.parts[part] for part in ("embeddings", "head", "norms"))
    groups = (total - kept) // 128
    assert quantised == (total - kept) // 2 + groups * 5 // 2 + 2 * kept + buffers


def test_a_published_format_gives_the_size_of_the_files() -> None:
    stored = estimate(describe(sample_config("gpt-oss-20b")), Request(weights="stored")).weight_bytes
    # The three files of openai/gpt-oss-20b are 13.76 GB.
    assert stored == pytest.approx(13.76e9, rel=0.001)


def test_formats_are_chosen_apart(llama: Architecture) -> None:
    wide = estimate(llama, Request(weights="int4", cache="bf16"))
    narrow = estimate(llama, Request(weights="int4", cache="fp8"))
    assert wide.weight_bytes == narrow.weight_bytes
    assert wide.key_value_bytes == 2 * narrow.key_value_bytes


def test_windows_stop_growing() -> None:
    gemma = describe(sample_config("gemma-2-2b"))
    at_window, beyond = (estimate(gemma, Request(context=n)).key_value_bytes for n in (4096, 4097))
    # Past the window only the 13 full layers go on: 2 * 4 heads * 256 * 2 bytes each.
    assert beyond - at_window == 13 * 4096


def test_encoders_keep_nothing_and_say_so() -> None:
    bert = describe(sample_config("bert-base-uncased"))
    assert estimate(bert, Request()).cache_bytes == 0
    assert not bert.has_cache


def test_whisper_keeps_its_cross_attention_once() -> None:
    whisper = describe(sample_config("whisper-tiny"))
    result = estimate(whisper, Request(context=448))
    assert result.cross_bytes == 2 * 4 * 384 * 2 * 1500
    assert result.key_value_bytes == 6144 * 448


def test_music_is_counted_in_steps(musicgen: Architecture) -> None:
    request = Request(weights="fp32", duration_seconds=10, overhead_bytes=0)
    result = estimate(musicgen, request)
    assert (result.frames, result.steps, result.rows) == (500, 503, 2)
    assert result.key_value_bytes == 2 * 503 * 196_608
    without = estimate(musicgen, request.changed(guidance=False))
    assert without.rows == 1
    assert without.cache_bytes * 2 == result.cache_bytes
    assert {"text", "codec", "projector"} <= set(musicgen.parameters.parts)


def test_melody_reads_its_conditions_as_a_prefix() -> None:
    melody = describe(sample_config("musicgen-melody"))
    result = estimate(melody, Request(duration_seconds=30))
    assert result.cross_bytes == 0
    assert result.tokens == 1503 + 235 + 32


def test_overhead_is_counted_once(llama: Architecture) -> None:
    for batch in (1, 64):
        result = estimate(llama, Request(batch=batch))
        assert result.total_bytes == sum(result.breakdown().values())
        assert result.overhead_bytes == 600_000_000


def test_tensor_parallelism_stops_at_the_heads(llama: Architecture) -> None:
    one, eight, sixteen = (estimate(llama, Request(tensor_parallel=n)) for n in (1, 8, 16))
    assert one.key_value_bytes == 8 * eight.key_value_bytes
    assert eight.key_value_bytes == sixteen.key_value_bytes
    assert sixteen.weight_bytes < eight.weight_bytes < one.weight_bytes
    latent = describe(sample_config("deepseek-v2-lite"))
    assert (
        estimate(latent, Request()).key_value_bytes
        == estimate(latent, Request(tensor_parallel=8)).key_value_bytes
    )


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.sampled_from(sorted(CACHE_FORMATS)),
    st.integers(1, 4000),
    st.integers(1, 60_000),
    st.integers(1, 500),
    st.integers(1, 5000),
)
def test_memory_never_shrinks_with_batch_or_length(
    name: str, cache: str, batch: int, context: int, more_rows: int, more_tokens: int
) -> None:
    architecture = describe(sample_config(name))
    request = Request(cache=cache, batch=batch, context=context, duration_seconds=context / 50)
    here = estimate(architecture, request)
    larger = estimate(architecture, request.changed(batch=batch + more_rows))
    longer = estimate(
        architecture,
        request.changed(context=context + more_tokens, duration_seconds=(context + more_tokens) / 50),
    )
    for other in (larger, longer):
        assert other.total_bytes >= here.total_bytes
        assert other.low_total_bytes >= here.low_total_bytes
        assert other.cache_bytes >= here.cache_bytes
    assert here.low_total_bytes <= here.total_bytes
    assert all(isinstance(value, int) for value in here.breakdown().values())


@pytest.mark.parametrize("name", NAMES)
def test_activations_have_no_cliffs(name: str) -> None:
    architecture = describe(sample_config(name))
    totals = [
        estimate(architecture, Request(context=n, duration_seconds=n / 50)).activations
        for n in range(500, 540)
    ]
    for attribute in ("low_bytes", "high_bytes"):
        steps = [getattr(b, attribute) - getattr(a, attribute) for a, b in itertools.pairwise(totals)]
        assert max(steps) <= 3 * max(1, min(step for step in steps if step) if any(steps) else 1) + 4


def test_the_longest_context_fits_and_one_more_does_not(llama: Architecture) -> None:
    memory = 20 * 2**30
    request = Request(context=1, batch=1)
    free = dataclasses.replace(llama, shapes=dataclasses.replace(llama.shapes, max_context=0))
    longest = longest_context(free, request, memory)
    assert estimate(free, request.changed(context=longest)).total_bytes <= memory
    assert estimate(free, request.changed(context=longest + 1)).total_bytes > memory
    assert longest_context(llama, request, 10**12) == 8192


def test_the_largest_batch_and_the_longest_take(musicgen: Architecture) -> None:
    memory = 8 * 2**30
    request = Request(weights="fp32", duration_seconds=30)
    most = largest_batch(musicgen, request, memory)
    assert estimate(musicgen, request.changed(batch=most)).total_bytes <= memory
    assert estimate(musicgen, request.changed(batch=most + 1)).total_bytes > memory
    seconds = longest_take(musicgen, request, memory)
    assert estimate(musicgen, request.changed(duration_seconds=seconds)).total_bytes <= memory
    assert estimate(musicgen, request.changed(duration_seconds=seconds + 0.02)).total_bytes > memory


def test_cards(llama: Architecture) -> None:
    fit = smallest_card(llama, Request(context=4096))
    assert fit.fits
    smaller = [card for card in CARDS if card.memory_bytes < fit.card.memory_bytes]
    with pytest.raises(DoesNotFit, match="No single card"):
        smallest_card(llama, Request(context=4096), cards=smaller)
    assert find_card("RTX 4090").slug == "rtx-4090"
    with pytest.raises(ValueError, match="no card"):
        find_card("abacus")
    with pytest.raises(DoesNotFit, match="Not even"):
        longest_context(llama, Request(), 10**9)


@pytest.mark.parametrize(
    "wrong",
    [
        {"weights": "fp128"},
        {"batch": 0},
        {"batch": True},
        {"context": -1},
        {"duration_seconds": float("nan")},
        {"duration_seconds": 1e9},
        {"cache": "int3"},
        {"device": "abacus"},
    ],
)
def test_a_request_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Request(**wrong)  # type: ignore[arg-type]


def test_an_architecture_survives_its_json(llama: Architecture, musicgen: Architecture) -> None:
    import json

    for architecture in (llama, musicgen):
        assert Architecture.from_json(json.loads(json.dumps(architecture.as_json()))) == architecture
