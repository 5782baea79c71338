"""How each model is built: told by the catalogue, read from installed checkpoints, kept by migrations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from registry.catalog import DEMO_MODEL_ID, MODEL_CONFIGS
from registry.models import ModelConfig
from registry.services import architecture_of, config_in, facts_of_config, note_architecture, sync_catalog
from tests.conftest import ROOT

FIELDS = ("family", "hidden_size", "layers", "ffn_dim", "heads", "text_width")

#: As the published `config.json` files tell.
SIZES = {"small": (1024, 24, 4096, 16), "medium": (1536, 48, 6144, 24), "large": (2048, 48, 8192, 32)}
PUBLISHED = {
    "musicgen-small": ("musicgen", "small", 4, 1),
    "musicgen-medium": ("musicgen", "medium", 4, 1),
    "musicgen-large": ("musicgen", "large", 4, 1),
    "musicgen-stereo-small": ("musicgen", "small", 8, 2),
    "musicgen-stereo-medium": ("musicgen", "medium", 8, 2),
    "musicgen-stereo-large": ("musicgen", "large", 8, 2),
    "musicgen-melody": ("musicgen_melody", "medium", 4, 1),
    "musicgen-melody-large": ("musicgen_melody", "large", 4, 1),
    "musicgen-stereo-melody": ("musicgen_melody", "medium", 8, 2),
    "musicgen-stereo-melody-large": ("musicgen_melody", "large", 8, 2),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_are_built_as_the_catalogue_says(name: str, db: None) -> None:
    family, size, codebooks, channels = PUBLISHED[name]
    built = architecture_of(ModelConfig.objects.get(pk=name))
    assert (built.hidden_size, built.layers, built.ffn_dim, built.heads) == SIZES[size]
    assert (built.family, built.codebooks, built.channels, built.text_width) == (
        family,
        codebooks,
        channels,
        768,
    )
    assert (built.model_id, built.hf_model_id) == (name, f"facebook/{name}")


def test_no_two_published_models_are_built_alike(db: None) -> None:
    built = {
        tuple(getattr(model, name) for name in (*FIELDS, "codebooks", "channels"))
        for model in ModelConfig.objects.all()
    }
    assert len(built) == len(PUBLISHED) + 1


def test_the_demo_is_built_as_its_checkpoint_says(db: None) -> None:
    demo = ModelConfig.objects.get(pk=DEMO_MODEL_ID)
    told = facts_of_config(config_in(ROOT / demo.local_path))
    assert set(told) == {*FIELDS, "codebooks", "channels"}
    assert {name: getattr(demo, name) for name in told} == told


def write(folder: Path, **changes: Any) -> Path:
    config: dict[str, Any] = {
        "model_type": "musicgen",
        "decoder": {
            "hidden_size": 96,
            "num_hidden_layers": 5,
            "ffn_dim": 300,
            "num_attention_heads": 6,
            "num_codebooks": 8,
            "audio_channels": 2,
        },
        "text_encoder": {"d_model": 40},
    }
    (folder / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
    return folder


@pytest.fixture
def added(db: None) -> ModelConfig:
    """A model that an admin added, of which nothing is known but what the form asks."""
    return ModelConfig.objects.create(
        id="added",
        display_name="Added",
        hf_model_id="someone/added",
        max_duration_seconds=30,
        recommended_duration_seconds=10,
        vram_requirement_gb=1,
    )


def test_an_installed_checkpoint_tells_how_its_model_is_built(added: ModelConfig, tmp_path: Path) -> None:
    assert architecture_of(added).family is None
    changed = note_architecture(added, write(tmp_path))
    assert set(changed) == {*FIELDS, "codebooks", "channels"}
    added.refresh_from_db()
    built = architecture_of(added)
    assert (built.family, built.hidden_size, built.layers, built.ffn_dim, built.heads) == (
        "musicgen",
        96,
        5,
        300,
        6,
    )
    assert (built.codebooks, built.channels, built.text_width) == (8, 2, 40)
    assert note_architecture(added, tmp_path) == []


def test_noting_it_overwrites_nothing_else(added: ModelConfig, tmp_path: Path) -> None:
    ModelConfig.objects.filter(pk="added").update(display_name="Renamed meanwhile")
    note_architecture(added, write(tmp_path))
    assert ModelConfig.objects.get(pk="added").display_name == "Renamed meanwhile"


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "{",
        "[]",
        '{"model_type": "llama", "decoder": {}}',
        '{"model_type": "musicgen", "decoder": 3}',
        "[" * 100_000,
        '{"model_type": "musicgen", "decoder": {}, "x": "' + "y" * 1024 * 1024 + '"}',
    ],
)
def test_what_is_no_musicgen_config_changes_nothing(
    content: str | None, added: ModelConfig, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
    assert note_architecture(added, tmp_path) == []
    added.refresh_from_db()
    assert [getattr(added, name) for name in FIELDS] == [None] * len(FIELDS)


@pytest.mark.parametrize("value", [0, -1, 2**40, True, "96", 1.5, None])
def test_sizes_of_no_use_are_left_out(value: Any, tmp_path: Path) -> None:
    decoder = {"hidden_size": value, "num_hidden_layers": 5}
    told = facts_of_config(config_in(write(tmp_path, decoder=decoder)))
    assert "hidden_size" not in told
    assert told["layers"] == 5


def test_a_config_that_leaves_sizes_out_means_the_librarys(tmp_path: Path) -> None:
    from transformers import MusicgenDecoderConfig

    theirs = MusicgenDecoderConfig()
    told = facts_of_config(config_in(write(tmp_path, decoder={}, text_encoder=None)))
    assert told == {
        "family": "musicgen",
        "hidden_size": theirs.hidden_size,
        "layers": theirs.num_hidden_layers,
        "ffn_dim": theirs.ffn_dim,
        "heads": theirs.num_attention_heads,
        "codebooks": theirs.num_codebooks,
        "channels": theirs.audio_channels,
    }


@pytest.mark.django_db(transaction=True)
def test_a_database_of_the_release_before_learns_it() -> None:
    executor = MigrationExecutor(connection)
    newest = executor.loader.graph.leaf_nodes()
    registry_before = ("registry", "0003_switches")
    try:
        # Apps that build on the columns go first.
        executor.migrate([("generation", "0002_switches"), ("adapters", None), registry_before])
        rows = (
            MigrationExecutor(connection)
            .loader.project_state(registry_before)
            .apps.get_model("registry", "ModelConfig")
        )
        rows.objects.create(
            id="mine",
            display_name="Mine",
            hf_model_id="someone/mine",
            max_duration_seconds=30,
            recommended_duration_seconds=10,
            vram_requirement_gb=1,
        )
        # One whose length a curator chose.
        rows.objects.filter(pk="musicgen-medium").update(max_duration_seconds=20)
        # One that an admin listed under a name of their own.
        rows.objects.filter(pk="musicgen-large").delete()
        rows.objects.create(
            id="big",
            display_name="Big",
            hf_model_id="facebook/musicgen-large",
            max_duration_seconds=30,
            recommended_duration_seconds=10,
            vram_requirement_gb=16,
        )
    finally:
        MigrationExecutor(connection).migrate(newest)
    for model in ModelConfig.objects.all():
        entry = MODEL_CONFIGS.get(model.hf_model_id)
        wanted = [entry[name] for name in FIELDS] if entry else [None] * len(FIELDS)
        assert [getattr(model, name) for name in FIELDS] == wanted, model.pk
    assert ModelConfig.objects.get(pk="big").hidden_size == 2048
    # A later release can still correct what nobody edited.
    corrected = {
        key: {**entry, "layers": 7, "max_extended_seconds": 90} for key, entry in MODEL_CONFIGS.items()
    }
    extended = dict(ModelConfig.objects.values_list("pk", "max_extended_seconds"))
    sync_catalog(catalog=corrected)
    assert ModelConfig.objects.get(pk="musicgen-small").layers == 7
    # Longer takes are allowed but where somebody decided how long they may be.
    corrected_extended = dict(ModelConfig.objects.values_list("pk", "max_extended_seconds"))
    chosen = {"musicgen-medium": None, "big": None, "mine": None}
    assert {name: extended[name] for name in ["musicgen-small", *chosen]} == {"musicgen-small": 120, **chosen}
    assert {name: corrected_extended[name] for name in ["musicgen-small", *chosen]} == {
        "musicgen-small": 90,
        **chosen,
    }
