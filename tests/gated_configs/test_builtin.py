"""Configs that ship with the studio: their figures, their layout, and those that another app registers."""

from __future__ import annotations

import pytest

from gated_configs.memory import describe
from gated_configs.services import builtin
from gated_configs.services.builtin import builtin_config, builtin_ids, register_builtin
from gated_configs.services.lookup import Source, find_config
from gated_configs.services.model_ids import normalised_id

#: Total parameters of the published checkpoints, and width, layers, feed-forward size, heads of their decoders.
SMALL, MEDIUM, LARGE = (1024, 24, 4096, 16), (1536, 48, 6144, 24), (2048, 48, 8192, 32)
PUBLISHED = {
    "musicgen-small": (586_884_674, SMALL, 1),
    "musicgen-medium": (2_005_251_138, MEDIUM, 1),
    "musicgen-large": (3_423_470_146, LARGE, 1),
    "musicgen-stereo-small": (603_665_986, SMALL, 2),
    "musicgen-stereo-medium": (2_030_423_106, MEDIUM, 2),
    "musicgen-stereo-large": (3_457_032_770, LARGE, 2),
    "musicgen-melody": (1_552_138_818, MEDIUM, 1),
    "musicgen-melody-large": (2_617_993_794, LARGE, 1),
    # A mono model's count, with embedding and head of four more codebooks: 4 x (2049 + 2048) x width.
    "musicgen-stereo-melody": (1_552_138_818 + 4 * 4097 * 1536, MEDIUM, 2),
    "musicgen-stereo-melody-large": (2_617_993_794 + 4 * 4097 * 2048, LARGE, 2),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_figures_are_those_of_the_checkpoint(name: str) -> None:
    config = builtin_config(f"facebook/{name}")
    assert config is not None
    total, (width, layers, feed_forward, heads), channels = PUBLISHED[name]
    architecture = describe(config)
    assert architecture.parameters.total == total
    decoder = config["decoder"]
    assert (decoder["hidden_size"], decoder["num_hidden_layers"]) == (width, layers)
    assert (decoder["ffn_dim"], decoder["num_attention_heads"]) == (feed_forward, heads)
    music = architecture.music
    assert music is not None
    assert (music.frame_rate, music.sample_rate, music.trained_seconds) == (50.0, 32_000, 30.0)
    assert (music.channels, music.codebooks) == (channels, 4 * channels)
    assert decoder["pad_token_id"] == decoder["bos_token_id"] == decoder["vocab_size"] == 2048
    assert architecture.family == ("musicgen_melody" if "melody" in name else "musicgen")


def test_all_of_them_are_here() -> None:
    shipped = {path.stem for path in builtin.FOLDER.glob("*.json")}
    assert shipped == set(PUBLISHED)
    assert {f"facebook/{name}" for name in PUBLISHED} <= set(builtin_ids())


def test_what_one_caller_changes_another_does_not_see() -> None:
    first = builtin_config("facebook/musicgen-small")
    assert first is not None
    first["decoder"].clear()
    second = builtin_config("facebook/musicgen-small")
    assert second is not None
    assert second["decoder"]


@pytest.mark.django_db
def test_another_app_registers_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "_registered", {})
    shipped: list[dict[str, str]] = [{"model_type": "shipped"}]
    register_builtin("studio/Shipped", lambda: shipped[0] if shipped else None)
    assert normalised_id("shipped") == "studio/Shipped"
    answer = find_config(user=None, model_id="studio/Shipped")
    assert (answer.source, answer.config) == (Source.BUILTIN, {"model_type": "shipped"})
    assert answer.source_sentence == "Built in"
    assert builtin_config("studio/other") is None
    shipped.clear()
    assert builtin_config("studio/Shipped") is None
