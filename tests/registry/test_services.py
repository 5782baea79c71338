"""Services of the registry: find a model, follow the catalogue, one active model, the operator's limits."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import call_command
from django.db import IntegrityError, transaction

from gated_configs.wording import THIN_SPACE
from registry.catalog import MODEL_CONFIGS
from registry.models import ModelConfig
from registry.services import (
    ModelNotFound,
    ModelNotPlayable,
    NoActiveModel,
    UnknownLimits,
    activate_model,
    check_limits,
    get_active_model,
    get_max_duration,
    get_model_config,
    list_models,
    sync_catalog,
)

pytestmark = pytest.mark.django_db

Limits = Callable[[dict[str, float]], None]


@pytest.fixture
def limits(settings: Any) -> Limits:
    """Set MUSICGEN_MAX_DURATION_SECONDS for this test."""

    def set_limits(values: dict[str, float]) -> None:
        settings.STUDIO = settings.STUDIO.model_copy(update={"max_duration_seconds": values})

    return set_limits


def catalogue(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The catalogue of a later release, with some values changed; names are ids with underscores."""
    later = copy.deepcopy(MODEL_CONFIGS)
    for name, values in changes.items():
        model_id = name.replace("_", "-")
        next(entry for entry in later.values() if entry["id"] == model_id).update(values)
    return later


# Find.


def test_the_migration_seeds_every_entry_of_the_catalogue() -> None:
    assert [model.hf_model_id for model in list_models()] == list(MODEL_CONFIGS)
    for entry in MODEL_CONFIGS.values():
        row = get_model_config(entry["id"])
        assert {name: getattr(row, name) for name in entry} == entry


def test_the_demo_is_the_active_model_of_a_new_database() -> None:
    assert get_active_model().pk == "musicgen-demo"
    assert ModelConfig.objects.filter(is_active=True).count() == 1


@pytest.mark.parametrize("name", ["musicgen-small", "facebook/musicgen-small"])
def test_a_model_is_found_by_either_id(name: str) -> None:
    assert get_model_config(name).display_name == "MusicGen Small"
    assert get_max_duration(name) == 30


@pytest.mark.parametrize("name", ["musicgen-tiny", "", "MUSICGEN-SMALL", "'; DROP TABLE"])
def test_an_unknown_model_is_named_with_the_choices(name: str) -> None:
    for find in (get_model_config, get_max_duration, activate_model):
        with pytest.raises(ModelNotFound) as refused:
            find(name)
        assert str(refused.value).startswith(f"There is no model '{name}'. Choose one of: musicgen-demo, ")
        assert "musicgen-large" in str(refused.value)


def test_a_table_without_an_active_model_says_what_to_do() -> None:
    ModelConfig.objects.update(is_active=False)
    with pytest.raises(NoActiveModel, match="make one active in the admin"):
        get_active_model()


def test_playable_leaves_the_others_out(locked: str) -> None:
    names = set(ModelConfig.objects.playable().values_list("id", flat=True))
    assert {"musicgen-small", "musicgen-melody"} <= names
    assert locked not in names


# One active model.


def test_activating_moves_the_mark() -> None:
    assert activate_model("facebook/musicgen-small").is_active
    assert list(ModelConfig.objects.filter(is_active=True).values_list("id", flat=True)) == ["musicgen-small"]
    assert get_active_model().pk == "musicgen-small"


def test_activating_twice_changes_nothing() -> None:
    activate_model("musicgen-small")
    activate_model("musicgen-small")
    assert get_active_model().pk == "musicgen-small"


def test_a_model_that_cannot_be_played_is_not_activated(locked: str) -> None:
    with pytest.raises(ModelNotPlayable) as refused:
        activate_model(locked)
    assert str(refused.value).startswith("MusicGen Stereo Large cannot be played yet. ")
    assert get_active_model().pk == "musicgen-demo"


def test_the_database_holds_one_active_model() -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        ModelConfig.objects.filter(pk="musicgen-small").update(is_active=True)


def test_the_database_holds_no_active_model_that_cannot_be_played() -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        ModelConfig.objects.filter(is_active=True).update(is_playable=False)


def test_the_database_holds_the_recommendation_within_the_limit() -> None:
    for values in ({"recommended_duration_seconds": 31}, {"recommended_duration_seconds": 0}):
        with pytest.raises(IntegrityError), transaction.atomic():
            ModelConfig.objects.filter(pk="musicgen-small").update(**values)


# The catalogue of a later release.


def test_a_second_sync_changes_nothing() -> None:
    assert sync_catalog() == []


def test_a_change_of_the_catalogue_arrives() -> None:
    later = catalogue(musicgen_small={"vram_requirement_gb": 3, "description": "Fast"})
    assert sorted(sync_catalog(catalog=later)) == [
        "musicgen-small: description is now Fast",
        "musicgen-small: vram_requirement_gb is now 3",
    ]
    row = get_model_config("musicgen-small")
    assert (row.vram_requirement_gb, row.description) == (3, "Fast")
    assert sync_catalog(catalog=later) == []


def test_what_an_admin_edited_stays() -> None:
    ModelConfig.objects.filter(pk="musicgen-small").update(max_duration_seconds=45, description="Ours")
    later = catalogue(musicgen_small={"max_duration_seconds": 60, "description": "Fast", "channels": 2})
    assert sync_catalog(catalog=later) == ["musicgen-small: channels is now 2"]
    row = get_model_config("musicgen-small")
    assert (row.max_duration_seconds, row.description, row.channels) == (45, "Ours", 2)


def test_an_edit_stays_through_several_releases() -> None:
    ModelConfig.objects.filter(pk="musicgen-small").update(max_duration_seconds=45)
    for limit in (60, 70, 30):
        sync_catalog(catalog=catalogue(musicgen_small={"max_duration_seconds": limit}))
        assert get_max_duration("musicgen-small") == 45


def test_a_new_entry_is_added_and_an_old_row_stays() -> None:
    ModelConfig.objects.create(
        id="ours",
        hf_model_id="us/ours",
        max_duration_seconds=30,
        recommended_duration_seconds=10,
        vram_requirement_gb=4,
    )
    later = catalogue()
    new = {**later["facebook/musicgen-small"], "id": "musicgen-tiny", "hf_model_id": "facebook/musicgen-tiny"}
    later["facebook/musicgen-tiny"] = new
    assert sync_catalog(catalog=later) == ["musicgen-tiny: added"]
    assert get_model_config("facebook/musicgen-tiny").max_duration_seconds == 30
    assert get_model_config("ours").hf_model_id == "us/ours"


def test_a_new_entry_that_an_admin_already_has_is_left_out() -> None:
    ModelConfig.objects.filter(pk="musicgen-large").update(hf_model_id="facebook/renamed")
    ModelConfig.objects.filter(pk="musicgen-small").delete()
    ModelConfig.objects.filter(pk="musicgen-large").update(hf_model_id="facebook/musicgen-small")
    (line,) = [line for line in sync_catalog() if "left out" in line]
    assert line.startswith("musicgen-small: left out")
    assert get_model_config("facebook/musicgen-small").pk == "musicgen-large"


def test_a_limit_below_an_edited_recommendation_does_not_stop_the_sync() -> None:
    ModelConfig.objects.filter(pk="musicgen-small").update(recommended_duration_seconds=25)
    sync_catalog(catalog=catalogue(musicgen_small={"max_duration_seconds": 20}))
    row = get_model_config("musicgen-small")
    assert (row.max_duration_seconds, row.recommended_duration_seconds) == (20, 20)


def test_the_active_model_stays_playable() -> None:
    activate_model("musicgen-small")
    sync_catalog(catalog=catalogue(musicgen_small={"is_playable": False, "unplayable_reason": "Too old."}))
    assert get_active_model().pk == "musicgen-small"
    assert get_active_model().is_playable


def test_the_choice_of_an_admin_outlives_a_sync() -> None:
    activate_model("musicgen-small")
    sync_catalog(catalog=catalogue(musicgen_demo={"description": "New"}))
    assert get_active_model().pk == "musicgen-small"


def test_migrate_brings_an_existing_database_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODEL_CONFIGS["facebook/musicgen-small"], "description", "Faster")
    call_command("migrate", verbosity=0)
    assert get_model_config("musicgen-small").description == "Faster"


@pytest.mark.django_db(transaction=True)
def test_a_flushed_database_is_filled_again() -> None:
    call_command("flush", interactive=False, verbosity=0)
    assert get_active_model().pk == "musicgen-demo"
    assert len(list_models()) == len(MODEL_CONFIGS)


# The operator's limits.


@pytest.mark.parametrize("name", ["musicgen-small", "facebook/musicgen-small"])
def test_the_environment_stands_above_the_row(name: str, limits: Limits) -> None:
    limits({name: 60})
    assert get_max_duration("musicgen-small") == 60
    assert get_max_duration("musicgen-medium") == 30
    row = get_model_config("musicgen-small")
    assert row.hint.split(" · ")[1] == f"up to 1{THIN_SPACE}min"
    assert row.as_dict()["max_duration_seconds"] == 60
    assert row.warn_from_seconds == 48
    assert row.max_duration_seconds == 30, "the row itself stays as the admin left it"


def test_a_lower_limit_also_lowers_where_a_form_starts(limits: Limits) -> None:
    limits({"musicgen-small": 4.5})
    row = get_model_config("musicgen-small")
    assert row.default_duration_seconds == 4.5
    assert row.as_dict()["recommended_duration_seconds"] == 4.5


def test_the_hint_names_length_sound_and_memory() -> None:
    thin = THIN_SPACE
    assert get_model_config("musicgen-small").hint == (
        f"MusicGen Small · up to 30{thin}s · 32{thin}kHz mono · about 4{thin}GB"
    )
    assert f"32{thin}kHz stereo" in get_model_config("musicgen-stereo-small").hint


@pytest.mark.parametrize(
    ("duration", "extended", "limit"),
    [
        ({}, {}, 120),
        ({}, {"musicgen-small": 180}, 180),
        ({}, {"facebook/musicgen-small": 0}, None),
        ({}, {"musicgen-small": 30}, None),
        # A limit alone is meant as one.
        ({"musicgen-small": 10}, {}, None),
        ({"musicgen-small": 10}, {"musicgen-small": 40}, 40),
        ({"musicgen-small": 0.5}, {"musicgen-small": 40}, None),
    ],
)
def test_takes_in_windows_are_as_long_as_row_and_operator_allow(
    duration: dict[str, float], extended: dict[str, float], limit: float | None, settings: Any
) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(
        update={"max_duration_seconds": duration, "max_extended_seconds": extended}
    )
    row = get_model_config("musicgen-small")
    assert row.extended_limit_seconds == limit
    assert row.as_dict()["max_extended_seconds"] == limit
    assert row.longest_take_seconds == (limit or row.duration_limit_seconds)
    assert bool(row.windows_line) == (limit is not None)
    row.max_extended_seconds = 0
    assert row.extended_limit_seconds == (limit if extended else None)


def test_what_becomes_of_longer_takes_is_said_in_a_sentence() -> None:
    thin = THIN_SPACE
    assert get_model_config("musicgen-small").windows_line == (
        f"Longer than 30{thin}s, in overlapping windows: up to 2{thin}min"
    )


def test_limits_for_known_models_pass() -> None:
    check_limits("MUSICGEN_MAX_DURATION_SECONDS", {"musicgen-small": 60, "facebook/musicgen-large": 20})


def test_a_limit_for_an_unknown_model_is_named() -> None:
    with pytest.raises(UnknownLimits) as refused:
        check_limits("MUSICGEN_MAX_DURATION_SECONDS", {"musicgen-small": 60, "musicgen-smal": 60})
    assert str(refused.value).startswith(
        "MUSICGEN_MAX_DURATION_SECONDS: There is no model 'musicgen-smal'. Choose one of: "
    )


@pytest.mark.parametrize("path", ["relative/folder", "/absolute/folder", ""])
def test_a_checkpoint_is_a_folder_or_a_hub_id(path: str, settings: Any) -> None:
    model = ModelConfig(hf_model_id="facebook/musicgen-small", local_path=path)
    wanted = {
        "relative/folder": str(settings.BASE_DIR / "relative/folder"),
        "/absolute/folder": "/absolute/folder",
        "": "facebook/musicgen-small",
    }
    assert model.checkpoint == wanted[path]
