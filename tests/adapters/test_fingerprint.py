"""The fingerprint tells of the model what is certain, and nothing that is not."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from adapters.format.errors import BrokenAdapter
from adapters.format.fingerprint import Fingerprint, fingerprint_of
from adapters.format.inspection import inspect
from adapters.format.keys import parse_key
from adapters.format.lora_config import parse_config
from tests.adapters import made
from tests.adapters.conftest import AdapterOn, CheckpointOf


def told(**fields: Any) -> dict[str, Any]:
    return {**asdict(Fingerprint()), **fields}


def found(shapes: dict[str, tuple[int, ...]], **settings: Any) -> Fingerprint:
    """The fingerprint of tensors by their names after `base_model.model.`."""
    config = parse_config(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, **settings}))
    keys = [(parse_key(f"base_model.model.{name}"), shape) for name, shape in shapes.items()]
    assert all(key is not None for key, _ in keys)
    return fingerprint_of([(key, shape) for key, shape in keys if key is not None], config)


def layer(number: int, *modules: str) -> dict[str, tuple[int, ...]]:
    """Pairs of square modules of a model of width 16."""
    start = f"decoder.model.decoder.layers.{number}"
    return {
        f"{start}.{module}.{half}.weight": (4, 16) if half == "lora_A" else (16, 4)
        for module in modules
        for half in ("lora_A", "lora_B")
    }


TEXT = {"family": "musicgen", "hidden_size": 16, "layers": 2, "min_layers": 2}
FOUR = {"min_codebooks": 4, "listed_codebooks": 4}
FULL = {**TEXT, "ffn_dim": 32, "text_width": 12}

#: What real adapters on the mono dwarf tell, by the way they are made.
EXPECTED: dict[str, dict[str, Any]] = {
    "whole": TEXT,
    "decoder": TEXT,
    "decoder_model": TEXT,
    "decoder_stack": TEXT,
    "everything": FULL,
    "heads_and_embeddings": {**FULL, "codebooks": 4, **FOUR},
    "all_linear": {**TEXT, "ffn_dim": 32, **FOUR},
    "regex": TEXT,
    "rslora": TEXT,
    "dora": TEXT,
    "dora_heads": {**FULL, "codebooks": 4, **FOUR},
    "patterns": {**TEXT, "ffn_dim": 32},
    "patterns_decoder": TEXT,
    "saved_modules": {**TEXT, "text_width": 12, **FOUR},
    "some_layers": {**TEXT, "layers": None, "min_layers": 1},
    "feed_forward": {**TEXT, "ffn_dim": 32},
}


@pytest.mark.parametrize("way", made.WAYS)
def test_it_tells_what_the_ways_of_training_leave(way: str, adapter_on: AdapterOn) -> None:
    folder = adapter_on("mono", way)
    fingerprint = inspect(folder / made.WEIGHTS, (folder / made.CONFIG).read_bytes()).fingerprint
    assert asdict(fingerprint) == told(**EXPECTED[way])


@pytest.mark.parametrize(
    ("kind", "recipe", "expected"),
    [
        (
            "stereo",
            made.Recipe(targets=made.heads_and_embeddings(8)),
            {**FULL, "codebooks": 8, "min_codebooks": 8, "listed_codebooks": 8},
        ),
        ("wide", made.Recipe(targets=made.EVERYTHING), {**FULL, "hidden_size": 24, "ffn_dim": 48}),
        ("deep", made.Recipe(), {**TEXT, "layers": 3, "min_layers": 3}),
        ("melody", made.Recipe(), {**TEXT, "family": "musicgen_melody"}),
        (
            "melody",
            made.Recipe(targets=(*made.EVERYTHING, "audio_enc_to_dec_proj")),
            {**FULL, "family": "musicgen_melody"},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_it_tells_models_apart(
    kind: made.Kind, recipe: made.Recipe, expected: dict[str, Any], adapter_on: AdapterOn
) -> None:
    folder = adapter_on(kind, recipe)
    fingerprint = inspect(folder / made.WEIGHTS, (folder / made.CONFIG).read_bytes()).fingerprint
    assert asdict(fingerprint) == told(**expected)


@pytest.mark.parametrize(
    "recipe",
    [made.Recipe(targets="all-linear"), made.Recipe(targets="all-linear", use_dora=True, on="decoder")],
    ids=["whole", "decoder"],
)
def test_all_linear_modules_are_read_wherever_they_are(recipe: made.Recipe, adapter_on: AdapterOn) -> None:
    folder = adapter_on("mono", recipe)
    fingerprint = inspect(folder / made.WEIGHTS, (folder / made.CONFIG).read_bytes()).fingerprint
    assert (fingerprint.hidden_size, fingerprint.listed_codebooks, fingerprint.family) == (16, 4, "musicgen")


ATTENTION = ("self_attn.q_proj", "encoder_attn.q_proj")


@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        (["q_proj"], 2),
        (["self_attn.q_proj", "encoder_attn.q_proj"], 2),
        (["q_proj", "lm_heads.0"], 2),
        (r".*\.q_proj", 2),
        (r".*decoder\.layers\.\d+\..*q_proj", 2),
        (r".*layers\.[0-9]+\.(self|encoder)_attn\.q_proj", 2),
        (r".*layers\..*q_proj", 2),
        (r".*layers.*q_proj", 2),
        (r".*(fc[12]|q_proj)", 2),
        ("all-linear", 2),
        (["layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj"], None),
        (["0.self_attn.q_proj", "1.self_attn.q_proj"], None),
        (r".*layers\.[01]\..*q_proj", None),
        (r".*layers\.[0-1]\..*q_proj", None),
        (r".*layers\.(0|1)\..*q_proj", None),
        (r".*layers\.(?:0|1)\..*q_proj", None),
        (r".*layers\.\d\..*q_proj", None),
        (r".*\.(0|1)\..*q_proj", None),
    ],
)
def test_depth_is_told_only_where_training_took_every_layer(targets: Any, layers: int | None) -> None:
    fingerprint = found({**layer(0, *ATTENTION), **layer(1, *ATTENTION)}, target_modules=targets)
    assert (fingerprint.layers, fingerprint.min_layers) == (layers, 2)


@pytest.mark.parametrize(
    ("shapes", "settings"),
    [
        (layer(0, *ATTENTION) | layer(2, *ATTENTION), {}),
        (layer(1, *ATTENTION), {}),
        (layer(0, *ATTENTION) | layer(1, "fc1"), {}),
        (layer(0, *ATTENTION) | layer(1, *ATTENTION), {"layers_to_transform": [0, 1]}),
        (layer(0, *ATTENTION) | layer(1, *ATTENTION), {"exclude_modules": ["layers.2.self_attn.q_proj"]}),
        (layer(0, *ATTENTION) | layer(1, *ATTENTION), {"exclude_modules": r".*layers\.2\..*"}),
        (
            {"decoder.model.decoder.layers.0.fc1.weight": (32, 16), **layer(0, "self_attn.q_proj")},
            {"modules_to_save": ["layers.0.fc1"]},
        ),
    ],
)
def test_gaps_and_choices_leave_the_depth_open(
    shapes: dict[str, tuple[int, ...]], settings: dict[str, Any]
) -> None:
    assert found(shapes, target_modules=["q_proj"], **settings).layers is None


def heads(*numbers: int) -> dict[str, tuple[int, ...]]:
    return {
        f"decoder.lm_heads.{number}.{half}.weight": shape
        for number in numbers
        for half, shape in (("lora_A", (4, 16)), ("lora_B", (32, 4)))
    }


@pytest.mark.parametrize(
    ("numbers", "listed", "least"),
    [
        ((0, 1, 2, 3), 4, 4),
        ((0, 1, 2, 3, 4, 5, 6, 7), 8, 8),
        ((0,), None, 1),
        ((0, 1), None, 2),
        ((3,), None, 4),
        ((7,), None, 8),
        ((0, 1, 2, 4), None, 5),
    ],
)
def test_heads_tell_codebooks_where_all_are_listed(
    numbers: tuple[int, ...], listed: int | None, least: int
) -> None:
    fingerprint = found(heads(*numbers))
    assert (fingerprint.listed_codebooks, fingerprint.min_codebooks) == (listed, least)
    # Whether there are more heads is certain only where as many embeddings are listed.
    assert fingerprint.codebooks is None


def test_embeddings_tell_codebooks_and_width() -> None:
    start = "decoder.model.decoder.embed_tokens"
    shapes: dict[str, tuple[int, ...]] = {
        f"{start}.{number}.lora_embedding_{half}": shape
        for number in range(8)
        for half, shape in (("A", (4, 33)), ("B", (16, 4)))
    }
    fingerprint = found(shapes)
    assert (fingerprint.hidden_size, fingerprint.listed_codebooks) == (16, 8)
    saved = found({f"{start}.{number}.weight": (33, 16) for number in range(4)})
    assert (saved.hidden_size, saved.listed_codebooks) == (16, 4)
    both = found({**heads(0, 1, 2, 3), **{f"{start}.{number}.weight": (33, 16) for number in range(4)}})
    assert both.codebooks == 4


@pytest.mark.parametrize(
    ("modules", "settings", "family"),
    [
        (ATTENTION, {}, "musicgen"),
        (("encoder_attn.out_proj",), {}, "musicgen"),
        # `q_proj` takes every module of that name, and there was no cross-attention.
        (("self_attn.q_proj",), {"target_modules": ["q_proj"]}, "musicgen_melody"),
        (
            ("self_attn.q_proj",),
            {"target_modules": ["q_proj"], "base_model_name_or_path": "facebook/musicgen-small"},
            None,
        ),
        (("self_attn.q_proj",), {"target_modules": ["self_attn.q_proj"]}, None),
        (("self_attn.q_proj",), {"target_modules": ["q_proj"], "exclude_modules": ["encoder_attn"]}, None),
        (("self_attn.q_proj",), {"target_modules": r".*self_attn\.q_proj"}, None),
        (("fc1",), {"target_modules": ["fc1"]}, None),
        (("fc1",), {"auto_mapping": {"base_model_class": "MusicgenForCausalLM"}}, "musicgen"),
        (("fc1",), {"auto_mapping": {"base_model_class": "MusicgenMelodyForCausalLM"}}, "musicgen_melody"),
    ],
)
def test_text_and_melody_models_are_told_apart_where_the_file_tells(
    modules: tuple[str, ...], settings: dict[str, Any], family: str | None
) -> None:
    shapes = layer(0, *modules)
    if "fc1" in modules:
        shapes = {name: (4, 16) if "lora_A" in name else (32, 4) for name in shapes}
    assert found(shapes, **settings).family == family


def test_the_projection_of_melodies_is_a_melody_models_alone() -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "audio_enc_to_dec_proj.lora_A.weight": (4, 12),
        "audio_enc_to_dec_proj.lora_B.weight": (16, 4),
    }
    fingerprint = found(shapes)
    assert (fingerprint.family, fingerprint.hidden_size, fingerprint.text_width) == (
        "musicgen_melody",
        16,
        None,
    )


def test_tensors_of_two_widths_are_of_no_model() -> None:
    shapes = {**layer(0, *ATTENTION), "decoder.lm_heads.0.lora_A.weight": (4, 24)}
    with pytest.raises(BrokenAdapter, match="different sizes") as refused:
        found(shapes)
    assert "hidden_size" in refused.value.detail


def test_it_agrees_with_the_checkpoint_it_was_made_on(
    adapter_on: AdapterOn, checkpoint_of: CheckpointOf
) -> None:
    for kind in made.KINDS:
        decoder = json.loads((checkpoint_of(kind) / "config.json").read_text())["decoder"]
        folder = adapter_on(kind, made.Recipe(targets=(*made.ATTENTION, "fc1")))
        fingerprint = inspect(folder / made.WEIGHTS, (folder / made.CONFIG).read_bytes()).fingerprint
        assert (fingerprint.hidden_size, fingerprint.layers, fingerprint.ffn_dim) == (
            decoder["hidden_size"],
            decoder["num_hidden_layers"],
            decoder["ffn_dim"],
        )
