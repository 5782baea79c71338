"""An adapter's config: what is read of it, what is refused by name, and what each module's scale is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from peft.utils.peft_types import PeftType

from adapters.format.errors import AdapterRefused, BrokenAdapter, NotAnAdapter, UnsupportedAdapter
from adapters.format.keys import KeyKind, parse_key
from adapters.format.lora_config import KNOWN_SETTINGS, AdapterConfig, parse_config
from adapters.format.safetensors_header import read_header
from tests.adapters import made
from tests.adapters.conftest import AdapterOn, CheckpointOf


def text(**settings: Any) -> str:
    return json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, **settings})


@pytest.mark.parametrize("way", made.WAYS)
def test_what_peft_writes_is_read(way: str, adapter_on: AdapterOn) -> None:
    folder = adapter_on("mono", way)
    recipe = made.WAYS[way]
    config = parse_config((folder / made.CONFIG).read_bytes())
    theirs = LoraConfig.from_pretrained(str(folder))
    assert (config.r, config.lora_alpha) == (theirs.r, theirs.lora_alpha) == (recipe.r, recipe.lora_alpha)
    assert (config.use_rslora, config.use_dora) == (recipe.use_rslora, recipe.use_dora)
    assert config.rank_pattern == dict(recipe.rank_pattern)
    assert config.alpha_pattern == dict(recipe.alpha_pattern)
    assert config.modules_to_save == tuple(sorted(recipe.saved))
    assert config.layers_to_transform == recipe.layers_to_transform
    assert config.base_model_name == str(theirs.base_model_name_or_path)
    assert config.unknown_settings == ()


def test_every_setting_of_peft_is_known() -> None:
    theirs: Any = LoraConfig(target_modules=["q_proj"])
    assert set(theirs.to_dict()) <= KNOWN_SETTINGS


def test_a_setting_that_a_later_peft_brings_is_seen() -> None:
    # It may change what the tensors mean.
    assert parse_config(text(some_new_setting=True, another=None)).unknown_settings == ("some_new_setting",)


@pytest.mark.parametrize("method", [each.value for each in PeftType if each.value != "LORA"])
def test_other_methods_of_peft_are_refused_by_name(method: str) -> None:
    with pytest.raises(UnsupportedAdapter, match="Only LoRA adapters can be used") as refused:
        parse_config(text(peft_type=method))
    assert refused.value.code == "ADAPTER_KIND_UNSUPPORTED"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"peft_type": "IA3"}, "IA³"),
        ({"use_qalora": True}, "QA-LoRA"),
        ({"lora_bias": True}, "LoRA with biases"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "replicated layers"),
        ({"alora_invocation_tokens": [1, 2]}, "Activated LoRA"),
        ({"megatron_config": {"a": 1}}, "Megatron"),
        ({"trainable_token_indices": [1]}, "single trained tokens"),
        ({"target_parameters": ["a.b"]}, "bare parameters"),
        ({"use_bdlora": {"a": 1}}, "BD-LoRA"),
        ({"arrow_config": {"top_k": 3}}, "Arrow"),
        ({"kasa_config": {"beta": 1}}, "KaSA"),
        ({"velora_config": {"a": 1}}, "VeLoRA"),
        ({"monteclora_config": {"a": 1}}, "MonteCLoRA"),
        ({"init_lora_weights": "pissa"}, "PiSSA"),
        ({"init_lora_weights": "pissa_niter_16"}, "PiSSA"),
        ({"init_lora_weights": "olora"}, "OLoRA"),
        ({"init_lora_weights": "corda"}, "CorDA"),
        ({"init_lora_weights": "loftq"}, "LoftQ"),
        ({"init_lora_weights": "lora_ga"}, "LoRA-GA"),
    ],
)
def test_kinds_that_the_engine_cannot_do_are_refused_by_name(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(UnsupportedAdapter) as refused:
        parse_config(text(**settings))
    assert name in refused.value.message


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal", "mica"])
def test_beginnings_that_leave_the_base_alone_are_taken(init: Any) -> None:
    assert parse_config(text(init_lora_weights=init)).r == 4


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 0},
        {"r": -1},
        {"r": True},
        {"r": "8"},
        {"r": 10**9},
        {"lora_alpha": None},
        {"lora_alpha": "much"},
        {"lora_alpha": 1e300},
        {"use_dora": "yes"},
        {"rank_pattern": ["fc1"]},
        {"rank_pattern": {"fc1": 0}},
        {"rank_pattern": {"(": 2}},
        {"rank_pattern": {"": 2}},
        {"rank_pattern": {"(a+)+": 2}},
        {"alpha_pattern": {".*.*.*.*x": 2}},
        {"alpha_pattern": {"fc1": None}},
        {"modules_to_save": "lm_heads"},
        {"target_modules": [1]},
        {"target_modules": {"a": 1}},
        {"layers_to_transform": [-1]},
        {"layers_to_transform": "all"},
        {"base_model_name_or_path": 3},
        {"base_model_name_or_path": "x" * 5000},
    ],
)
def test_values_of_no_use_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BrokenAdapter, match=next(iter(settings))) as refused:
        parse_config(text(**settings))
    assert refused.value.code == "CONFIG_INVALID"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "null",
        "{",
        "\ufffe",
        '{"model_type": "musicgen"}',
        '{"peft_type": null}',
        "[" * 100_000,
        b"\xff\xfe\x00",
        "x" * (1024 * 1024 + 1),
    ],
)
def test_what_is_no_config_is_refused(content: str | bytes) -> None:
    with pytest.raises(NotAnAdapter, match=r"adapter_config\.json"):
        parse_config(content)


def test_a_setting_that_is_there_twice_is_refused() -> None:
    with pytest.raises(BrokenAdapter, match="twice"):
        parse_config('{"peft_type": "LORA", "r": 4, "r": 8}')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(
    settings=st.dictionaries(
        st.sampled_from([name for name in LoraConfig.__dataclass_fields__ if name != "peft_type"]),
        JSON,
        max_size=6,
    )
)
def test_nothing_in_a_config_makes_it_fail_otherwise(settings: dict[str, Any]) -> None:
    try:
        config = parse_config(text(**settings))
    except AdapterRefused:
        return
    assert parse_config(config.canonical()).canonical() == config.canonical()
    assert config.scale_of("decoder.lm_heads.0") is not None


def test_the_canonical_form_is_one_for_equal_adapters() -> None:
    first = parse_config(text(target_modules=["b", "a"], lora_dropout=0.1, base_model_name_or_path="x"))
    second = parse_config(text(target_modules=["a", "b"], inference_mode=True, task_type="CAUSAL_LM"))
    assert first.canonical() == second.canonical()
    assert first.canonical() != parse_config(text(target_modules=["a", "b"], use_rslora=True)).canonical()
    # Of two patterns that match, the first counts: their order is part of what the adapter is.
    one = parse_config(text(alpha_pattern={"fc1": 1, "layers.0.fc1": 2}))
    other = parse_config(text(alpha_pattern={"layers.0.fc1": 2, "fc1": 1}))
    assert one.canonical() != other.canonical()
    assert (one.alpha_of("layers.0.fc1"), other.alpha_of("layers.0.fc1")) == (1, 2)


def test_a_config_survives_the_database() -> None:
    config = parse_config(text(alpha_pattern={"fc1": 1, "a": 2}, rank_pattern={"z": 3, "b": 4}))
    reordered = dict(sorted(json.loads(config.canonical()).items(), reverse=True))
    again: AdapterConfig = parse_config(json.dumps(reordered))
    assert again.canonical() == config.canonical()
    assert list(again.rank_pattern) == ["z", "b"]


@pytest.mark.parametrize("way", made.WAYS)
def test_ranks_and_scales_of_modules_are_those_of_peft(
    way: str, adapter_on: AdapterOn, checkpoint_of: CheckpointOf
) -> None:
    from peft import PeftModel

    folder: Path = adapter_on("mono", way)
    config = parse_config((folder / made.CONFIG).read_bytes())
    part = made.load_network(checkpoint_of("mono")).get_submodule(made.PARTS[made.WAYS[way].on])
    adapted: Any = PeftModel.from_pretrained(part, str(folder))
    layers = dict(adapted.base_model.model.named_modules())
    compared = 0
    for name, entry in read_header(folder / made.WEIGHTS).tensors.items():
        key = parse_key(name)
        assert key is not None
        if key.kind in (KeyKind.LORA_A, KeyKind.EMBEDDING_A):
            layer = layers[key.trained_module]
            assert entry.shape[0] == config.rank_of(key.trained_module) == layer.r["default"]
            assert math.isclose(config.scale_of(key.trained_module), layer.scaling["default"])
            compared += 1
    assert compared >= 2
