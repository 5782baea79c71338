"""What the calculator knows of each model stands beside its row, and fit figures are computed from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from registry import number_formats
from registry.catalog import MODEL_CONFIGS
from registry.described import CATALOG_FILE, FROM_CONFIG, catalog_records, described
from registry.fit import COMPUTED, LISTED, MEASURED, fit_of, longest_take_estimate, need_of
from registry.hardware import GB, Hardware
from registry.models import ModelConfig
from registry.services import note_architecture, sync_catalog
from tests.registry.descriptions import catalog_config, descriptions


def test_the_shipped_descriptions_are_what_the_calculator_says_today() -> None:
    shipped = json.loads(CATALOG_FILE.read_text(encoding="utf-8"))
    assert shipped == json.loads(json.dumps(descriptions())), "run python -m tests.registry.descriptions"


def test_every_row_of_the_catalogue_is_described(db: None) -> None:
    for model in ModelConfig.objects.all():
        architecture = described(model.architecture)
        assert architecture is not None
        assert architecture.music is not None
        entry = MODEL_CONFIGS[model.hf_model_id]
        assert architecture.music.codebooks == entry["codebooks"]
        assert architecture.music.sample_rate == entry["sample_rate"]
        assert architecture.music.frame_rate == entry["tokens_per_second"]
        assert entry["parameters"] in (None, architecture.parameters.total)
        assert architecture.family == entry["family"]


def test_the_listed_memory_of_published_models_is_enough_on_a_card_and_not_far_off(db: None) -> None:
    for model in ModelConfig.objects.filter(is_playable=True):
        computed = longest_take_estimate(model, "cuda")
        assert computed is not None
        assert computed.total_bytes <= model.vram_requirement_gb * GB <= 2 * computed.total_bytes, model.pk


CPU = Hardware("cpu", "a processor", 100 * GB, 100 * GB)


@pytest.fixture(autouse=True)
def _processor_of_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine's can."""
    monkeypatch.setattr(number_formats, "multiplies_bfloat16", lambda: False)


def test_what_was_measured_counts_most_then_what_is_computed_then_the_list(db: None) -> None:
    model = ModelConfig.objects.get(pk="musicgen-small")
    computed = longest_take_estimate(model, "cpu")
    assert computed is not None
    assert (need_of(model, "cpu").source, need_of(model, "cpu").needed_bytes) == (
        COMPUTED,
        computed.total_bytes,
    )
    assert "(computed for 30" in fit_of(model, CPU).sentence
    model.measured_bytes = {"cpu float32": 3 * GB}
    assert (need_of(model, "cpu").source, need_of(model, "cpu").needed_bytes) == (MEASURED, 3 * GB)
    assert need_of(model, "cuda").source == COMPUTED
    model.measured_bytes, model.architecture = {}, None
    assert (need_of(model, "cpu").source, need_of(model, "cpu").needed_bytes) == (LISTED, 4 * GB)


def test_a_card_holds_sixteen_bits_and_a_processor_thirty_two(db: None, settings: Any) -> None:
    model = ModelConfig.objects.get(pk="musicgen-large")
    assert need_of(model, "cuda").needed_bytes < 0.6 * need_of(model, "cpu").needed_bytes
    settings.STUDIO = settings.STUDIO.model_copy(update={"dtype": "float32"})
    assert need_of(model, "cuda").needed_bytes > 0.9 * need_of(model, "cpu").needed_bytes


def test_a_longer_limit_needs_more(db: None, settings: Any) -> None:
    model = ModelConfig.objects.get(pk="musicgen-small")
    before = need_of(model, "cpu").needed_bytes
    settings.STUDIO = settings.STUDIO.model_copy(update={"max_duration_seconds": {"musicgen-small": 100_000}})
    assert need_of(model, "cpu").needed_bytes > 10 * before, "a day at most, and no error"


@pytest.mark.parametrize(
    "record", [None, 3, [], {}, {"described": None}, {"described": {"model_type": "x"}}, {"described": []}]
)
def test_a_description_of_other_words_is_none(record: Any) -> None:
    assert described(record) is None
    assert need_of(ModelConfig(vram_requirement_gb=2, architecture=record), "cpu").source == LISTED


def test_the_catalogue_renews_its_own_descriptions_and_keeps_those_of_checkpoints(db: None) -> None:
    shipped = ModelConfig.objects.get(pk="musicgen-small").architecture
    rows = ModelConfig.objects
    of_its_own = {**catalog_records()["facebook/musicgen-large"], "source": FROM_CONFIG}
    rows.filter(pk="musicgen-small").update(architecture={"source": "catalogue", "described": {"old": 1}})
    rows.filter(pk="musicgen-medium").update(architecture=of_its_own)
    rows.filter(pk="musicgen-large").update(architecture={"source": "config", "described": {"old": 1}})
    sync_catalog()
    assert rows.get(pk="musicgen-small").architecture == shipped
    assert rows.get(pk="musicgen-medium").architecture == of_its_own
    assert described(rows.get(pk="musicgen-large").architecture) is not None


def test_an_installed_checkpoint_of_the_hub_is_described_once(
    db: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = catalog_config("facebook/musicgen-small")
    config["decoder"]["num_hidden_layers"] = 7
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = ModelConfig.objects.get(pk="musicgen-small")
    note_architecture(model, tmp_path)
    kept: Any = ModelConfig.objects.get(pk="musicgen-small").architecture
    assert kept["source"] == FROM_CONFIG
    assert described(kept).shapes.layers == 7  # type: ignore[union-attr]
    monkeypatch.setattr(
        "registry.services.architecture.shared_calculator", lambda: pytest.fail("asked again")
    )
    note_architecture(model, tmp_path)
    model.local_path = str(tmp_path)
    model.architecture = None
    note_architecture(model, tmp_path)
    assert model.architecture is None, "a folder's is described when its row is saved in the admin"
