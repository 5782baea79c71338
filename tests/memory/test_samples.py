"""Published figures: parameters, cache bytes per token, model type and attention type of real configs."""

from __future__ import annotations

import pytest

from gated_configs.memory import Request, describe, estimate
from tests.memory.accuracy import PAGE, page
from tests.memory.samples import Sample, all_samples

SAMPLES = all_samples()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.model_id)
def test_gives_the_published_figures(sample: Sample) -> None:
    architecture = describe(sample.config)
    parameters = architecture.parameters
    named = {parameters.total, *(count.value for count in parameters.counts)}
    if sample.counts:
        assert named & sample.counts
    if sample.cache_bytes_per_token is not None:
        assert 2 * architecture.token_elements == sample.cache_bytes_per_token
        request = Request(weights="bf16", context=2)
        assert estimate(architecture, request).cache_bytes_per_token == sample.cache_bytes_per_token
    assert architecture.model_type == sample.model_type
    assert architecture.attention_type == sample.attention


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.is_given], ids=lambda sample: sample.model_id)
def test_the_headline_is_the_published_count_or_a_stated_alternative(sample: Sample) -> None:
    assert describe(sample.config).parameters.total in sample.counts


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.model_id)
def test_parts_add_up_and_none_is_left_over(sample: Sample) -> None:
    parameters = describe(sample.config).parameters
    assert sum(parameters.parts.values()) == parameters.total
    assert parameters.parts.get("other", 0) == 0
    assert parameters.active <= parameters.total
    assert parameters.convention


def test_a_mixture_is_active_in_part() -> None:
    sample = next(s for s in SAMPLES if s.model_id.endswith("Mixtral-8x7B-v0.1"))
    parameters = describe(sample.config).parameters
    # Mixtral of Experts, arXiv:2401.04088, section 1: 13B active parameters; exactly two of eight experts.
    assert parameters.active == 12_879_925_248
    assert (parameters.experts, parameters.experts_per_token) == (8, 2)


def test_mixed_layers_are_named_each() -> None:
    gemma = describe(next(s for s in SAMPLES if s.model_id == "google/gemma-2-2b").config)
    assert gemma.attention_patterns == {"sliding": 13, "full": 13}
    jamba = describe(next(s for s in SAMPLES if "Jamba" in s.model_id).config)
    assert jamba.attention_patterns == {"recurrent": 28, "full": 4}


def test_remote_families_are_marked_and_say_how_they_are_computed() -> None:
    glm = describe(next(s for s in SAMPLES if "glm-4-9b" in s.model_id).config)
    assert glm.is_remote_code
    assert "Glm" in " ".join(glm.notes)
    small = describe(next(s for s in SAMPLES if "Phi-3-small" in s.model_id).config)
    assert small.is_remote_code
    assert "arithmetic" in small.built_from


# STACK.md's table of the official models: layers, hidden, feed-forward, heads, codebooks, channels, total.
MUSICGEN = [
    ("musicgen", 24, 1024, 4096, 16, 4, 1, 586_884_674),
    ("musicgen", 48, 1536, 6144, 24, 4, 1, 2_005_251_138),
    ("musicgen", 48, 2048, 8192, 32, 4, 1, 3_423_470_146),
    ("musicgen", 24, 1024, 4096, 16, 8, 2, 603_665_986),
    ("musicgen", 48, 1536, 6144, 24, 8, 2, 2_030_423_106),
    ("musicgen", 48, 2048, 8192, 32, 8, 2, 3_457_032_770),
    ("musicgen_melody", 48, 1536, 6144, 24, 4, 1, 1_552_138_818),
    ("musicgen_melody", 48, 2048, 8192, 32, 4, 1, 2_617_993_794),
]


@pytest.mark.parametrize(
    ("family", "layers", "hidden", "ffn", "heads", "codebooks", "channels", "total"), MUSICGEN
)
def test_every_musicgen_total_is_the_known_one(
    family: str, layers: int, hidden: int, ffn: int, heads: int, codebooks: int, channels: int, total: int
) -> None:
    from tests.memory.conftest import sample_config

    config = sample_config("musicgen-small" if family == "musicgen" else "musicgen-melody")
    config["decoder"].update(
        num_hidden_layers=layers,
        hidden_size=hidden,
        ffn_dim=ffn,
        num_attention_heads=heads,
        num_codebooks=codebooks,
        audio_channels=channels,
    )
    architecture = describe(config)
    assert architecture.parameters.total == total
    assert architecture.domain == "text-to-music"
    assert architecture.music is not None
    assert (architecture.music.codebooks, architecture.music.channels) == (codebooks, channels)
    assert architecture.music.frame_rate == 50


# Here, where every sample has been computed: elsewhere it would be done once more.


def test_the_page_of_figures_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.memory.accuracy"


def test_the_page_of_figures_admits_no_difference_silently() -> None:
    assert "**differs**" not in page()
