"""The catalogue says what the published checkpoints are, and stays plain data."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from generation.engine.frames import frames_for
from registry.catalog import CC_BY_NC, DEMO_MODEL_ID, MODEL_CONFIGS
from registry.models import ModelConfig
from tests.conftest import ROOT

BY_ID = {entry["id"]: entry for entry in MODEL_CONFIGS.values()}


@dataclasses.dataclass
class Row:
    id: str
    hf_model_id: str
    max_duration_seconds: int
    recommended_duration_seconds: int
    tokens_per_second: int
    vram_requirement_gb: int
    sample_rate: int
    description: str


TABLE = [
    Row(
        "musicgen-small",
        "facebook/musicgen-small",
        30,
        10,
        50,
        4,
        32000,
        "Fast generation, good for prototyping",
    ),
    Row("musicgen-medium", "facebook/musicgen-medium", 30, 15, 50, 8, 32000, "Balanced quality and speed"),
    Row(
        "musicgen-large",
        "facebook/musicgen-large",
        30,
        10,
        50,
        16,
        32000,
        "Highest quality, requires more VRAM",
    ),
]

PARAMETERS = {
    "musicgen-small": 586_884_674,
    "musicgen-medium": 2_005_251_138,
    "musicgen-large": 3_423_470_146,
    "musicgen-stereo-small": 603_665_986,
    "musicgen-stereo-medium": 2_030_423_106,
    "musicgen-stereo-large": 3_457_032_770,
    "musicgen-melody": 1_552_138_818,
    "musicgen-melody-large": 2_617_993_794,
    "musicgen-stereo-melody": None,
    "musicgen-stereo-melody-large": None,
}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)
def test_the_text_models_have_the_published_values(row: Row) -> None:
    entry = MODEL_CONFIGS[row.hf_model_id]
    wanted = dataclasses.asdict(row)
    assert {name: entry[name] for name in wanted} == wanted


def test_every_published_checkpoint_is_listed_under_its_id() -> None:
    assert set(BY_ID) == {DEMO_MODEL_ID, *PARAMETERS}
    assert {name: BY_ID[name]["parameters"] for name in PARAMETERS} == PARAMETERS
    assert all(MODEL_CONFIGS[f"facebook/{name}"]["id"] == name for name in PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_stereo_has_twice_the_codebooks(name: str) -> None:
    entry = BY_ID[name]
    stereo = "stereo" in name
    assert (entry["channels"], entry["codebooks"]) == ((2, 8) if stereo else (1, 4))
    assert entry["sample_rate"] == 32000
    assert entry["licence"] == CC_BY_NC
    assert entry["licence_url"].startswith("https://creativecommons.org/licenses/by-nc/4.0")


@pytest.mark.parametrize("name", BY_ID)
def test_every_model_can_be_played_and_those_that_follow_clips_say_so(name: str) -> None:
    entry = BY_ID[name]
    assert (entry["is_playable"], entry["unplayable_reason"]) == (True, "")
    assert ("melody of a reference clip" in entry["description"]) == ("melody" in name)


@pytest.mark.parametrize("name", BY_ID)
def test_every_entry_is_a_valid_row(name: str) -> None:
    fields = {field.name for field in ModelConfig._meta.concrete_fields}
    entry = dict(BY_ID[name])
    assert set(entry) <= fields
    ModelConfig(**entry).clean_fields(exclude=["hf_model_id"] if name == DEMO_MODEL_ID else [])
    ModelConfig(**entry).clean()
    assert json.loads(json.dumps(entry)) == entry


def test_the_demo_says_what_its_checkpoint_is() -> None:
    entry: dict[str, Any] = BY_ID[DEMO_MODEL_ID]
    folder = ROOT / entry["local_path"]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    codec = config["audio_encoder"]
    assert entry["sample_rate"] == codec["sampling_rate"]
    assert entry["codebooks"] == config["decoder"]["num_codebooks"]
    assert entry["channels"] == config["decoder"]["audio_channels"]
    hop = 1
    for ratio in codec["upsampling_ratios"]:
        hop *= ratio
    assert entry["tokens_per_second"] == codec["sampling_rate"] / hop
    assert frames_for(5, entry["tokens_per_second"]) == 250
    assert sum(path.stat().st_size for path in Path(folder).rglob("*")) <= 20e6
