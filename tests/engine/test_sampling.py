"""How the next token is chosen, against the library's logits processors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    ClassifierFreeGuidanceLogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from generation.engine.sampling import Sampling, choose, guided, warped

NO_IDS = torch.empty(0, dtype=torch.long)


def logits_of(seed: int, rows: int = 4, tokens: int = 50) -> torch.Tensor:
    logits = 3 * torch.randn(rows, tokens, generator=torch.Generator().manual_seed(seed))
    return logits.mul(4).round().div(4)  # with ties, which top-k keeps


@given(
    st.integers(0, 10_000),
    st.sampled_from([0.1, 0.7, 1.0, 1.5, 4.0]),
    st.sampled_from([0, 1, 2, 10, 50, 60]),
    st.sampled_from([0.0, 1e-9, 0.01, 0.3, 0.9, 0.999, 1.0]),
)
def test_warping_equals_the_library(seed: int, temperature: float, top_k: int, top_p: float) -> None:
    logits = logits_of(seed)
    wanted = LogitsProcessorList()
    if temperature != 1.0:
        wanted.append(TemperatureLogitsWarper(temperature))
    if top_k:
        wanted.append(TopKLogitsWarper(top_k))
    if 0 < top_p < 1:
        wanted.append(TopPLogitsWarper(top_p))
    got = warped(logits, Sampling(temperature=temperature, top_k=top_k, top_p=top_p))
    assert torch.equal(got, wanted(NO_IDS, logits.clone()))


@pytest.mark.parametrize("top_p", [0.25, 0.5, 0.75])
def test_tokens_that_make_up_top_p_exactly_are_enough(top_p: float) -> None:
    logits = torch.zeros(4, 4)  # a quarter each, exactly
    got = warped(logits, Sampling(top_k=0, top_p=top_p))
    assert torch.equal(got, TopPLogitsWarper(top_p)(NO_IDS, logits.clone()))
    assert int(got[0].isfinite().sum()) == 4 * top_p


@given(st.integers(0, 10_000))
def test_off_means_untouched(seed: int) -> None:
    logits = logits_of(seed)
    assert torch.equal(warped(logits, Sampling(top_k=0, top_p=0.0)), logits)
    assert torch.equal(warped(logits, Sampling(top_k=0, top_p=1.0)), logits)


@given(st.integers(0, 10_000), st.sampled_from([1.5, 3.0, 10.0]))
def test_guidance_equals_the_library(seed: int, scale: float) -> None:
    logits = logits_of(seed, rows=8)  # four codebooks with prompt, then four without
    wanted = ClassifierFreeGuidanceLogitsProcessor(scale)(torch.empty(4, 0), logits)
    assert torch.equal(guided(logits.view(2, 4, -1), scale), wanted)


def test_one_row_is_not_guided() -> None:
    logits = logits_of(1)[None]
    assert torch.equal(guided(logits, 3.0), logits[0])


def test_greedy_takes_the_likeliest_and_draws_nothing() -> None:
    logits, generator = logits_of(1), torch.Generator().manual_seed(5)
    before = generator.get_state()
    assert torch.equal(choose(logits, Sampling(greedy=True), generator), logits.argmax(dim=-1))
    assert torch.equal(generator.get_state(), before)


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(30_000, 3)
    tokens = choose(logits, Sampling(top_k=0), torch.Generator().manual_seed(0))
    assert tokens.bincount().div(30_000).tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.01)


def test_only_the_generator_decides() -> None:
    logits = logits_of(3)

    def draws() -> list[list[int]]:
        generator = torch.Generator().manual_seed(11)
        return [choose(logits, Sampling(), generator).tolist() for _ in range(20)]

    first = draws()
    torch.manual_seed(99)
    torch.rand(100)
    assert draws() == first
    assert len({tuple(draw) for draw in first}) > 1
