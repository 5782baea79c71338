"""Melody models of a database of the release before, which could not play them."""

import importlib
from types import SimpleNamespace
from typing import Any

import pytest
from django.apps import apps
from django.db import connection

from registry.models import ModelConfig
from registry.services import sync_catalog

MIGRATION: Any = importlib.import_module("registry.migrations.0007_melody_models_play")
BEFORE = {"is_playable": False, "unplayable_reason": MIGRATION.REASON, "max_extended_seconds": None}


def as_before(name: str, **edited: Any) -> None:
    """The row as the release before left it, and as an admin edited it."""
    row = ModelConfig.objects.get(pk=name)
    ModelConfig.objects.filter(pk=name).update(
        **{**BEFORE, **edited}, catalog_values={**row.catalog_values, **BEFORE}
    )


def added(name: str, **fields: Any) -> None:
    """A row as it was added from a config."""
    ModelConfig.objects.create(
        id=name,
        display_name=name.title(),
        hf_model_id=f"someone/{name}",
        max_duration_seconds=30,
        recommended_duration_seconds=10,
        vram_requirement_gb=8,
        family="musicgen_melody",
        **{**BEFORE, **fields},
    )


def after() -> dict[str, Any]:
    """What `migrate` makes of them."""
    MIGRATION.unlock(apps, SimpleNamespace(connection=connection))
    sync_catalog()
    return {
        row.pk: (row.is_playable, row.unplayable_reason, row.max_extended_seconds)
        for row in ModelConfig.objects.filter(family="musicgen_melody")
    }


@pytest.mark.django_db
def test_melody_models_that_nobody_changed_can_be_played() -> None:
    as_before("musicgen-melody")
    as_before("musicgen-melody-large", max_duration_seconds=20)
    as_before("musicgen-stereo-melody", is_playable=True, unplayable_reason="", description="Ours")
    added("tune")
    added("odd", unplayable_reason="We have no room for it.")
    rows = after()
    assert rows["musicgen-melody"] == (True, "", 120)
    assert rows["musicgen-melody-large"] == (True, "", None), "the curator's limit stays the longest take"
    assert rows["musicgen-stereo-melody"] == (True, "", 120)
    assert ModelConfig.objects.get(pk="musicgen-stereo-melody").description == "Ours"
    assert rows["tune"] == (True, "", None)
    assert rows["odd"] == (False, "We have no room for it.", None)
    assert after() == rows
