"""The names of an adapter's tensors lead to modules that are really there, wherever training started from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import MusicgenForConditionalGeneration

from adapters.format.keys import (
    ADAPTER_NAME_NOTE,
    NO_PEFT_PREFIX_NOTE,
    PREFIX_NOTES,
    KeyKind,
    LoraKey,
    PrefixKind,
    canonical_module,
    parse_key,
    repair_notes,
)
from tests.adapters import made
from tests.adapters.conftest import AdapterOn, CheckpointOf

KINDS_OF_PARTS = {
    "whole": PrefixKind.WHOLE,
    "decoder": PrefixKind.DECODER,
    "decoder_model": PrefixKind.DECODER_MODEL,
    "decoder_stack": PrefixKind.DECODER_STACK,
}


def keys_of(folder: Path) -> list[LoraKey]:
    keys = [parse_key(name) for name in load_file(folder / made.WEIGHTS)]
    assert None not in keys
    return [key for key in keys if key is not None]


@pytest.mark.parametrize("kind", ["mono", "melody"])
@pytest.mark.parametrize("part", made.PARTS)
def test_every_module_of_the_network_is_known_by_its_name_in_each_part(
    kind: made.Kind, part: str, checkpoint_of: CheckpointOf
) -> None:
    network = made.load_network(checkpoint_of(kind))
    root = made.PARTS[part]
    trainable = {
        name
        for name, module in network.named_modules()
        if name.startswith(f"{root}." if root else ("decoder.", "enc_to_dec", "audio_enc_to"))
        and isinstance(module, torch.nn.Linear | torch.nn.Embedding | torch.nn.LayerNorm)
    }
    assert len(trainable) > 20
    seen = {name: canonical_module(name.removeprefix(f"{root}.")) for name in trainable}
    assert seen == {name: (name, KINDS_OF_PARTS[part]) for name in trainable}


@pytest.mark.parametrize("way", made.WAYS)
def test_real_adapters_name_modules_that_are_there(
    way: str, adapter_on: AdapterOn, checkpoint_of: CheckpointOf
) -> None:
    network = made.load_network(checkpoint_of("mono"))
    modules = dict(network.named_modules())
    keys = keys_of(adapter_on("mono", way))
    for key in keys:
        module = modules[key.module]
        embeds = key.kind in (KeyKind.EMBEDDING_A, KeyKind.EMBEDDING_B)
        assert isinstance(module, torch.nn.Embedding) == (embeds or "embed_tokens" in key.module)
    assert {key.prefix for key in keys} == {KINDS_OF_PARTS[made.WAYS[way].on]}
    expected = [PREFIX_NOTES[KINDS_OF_PARTS[made.WAYS[way].on]]] if made.WAYS[way].on != "whole" else []
    assert repair_notes(keys) == expected


def test_where_training_started_makes_no_difference_to_the_modules(adapter_on: AdapterOn) -> None:
    modules = {part: {key.module for key in keys_of(adapter_on("mono", part))} for part in made.PARTS}
    assert len(modules["whole"]) == 16
    assert all(found == modules["whole"] for found in modules.values())


@pytest.mark.parametrize(
    ("old", "new", "note"),
    [
        ("base_model.model.", "", NO_PEFT_PREFIX_NOTE),
        ("base_model.model.decoder.", "base_model.model.", PREFIX_NOTES[PrefixKind.DECODER]),
        ("base_model.model.decoder.model.", "base_model.model.", PREFIX_NOTES[PrefixKind.DECODER_MODEL]),
        (
            "base_model.model.decoder.model.decoder.",
            "base_model.model.",
            PREFIX_NOTES[PrefixKind.DECODER_STACK],
        ),
        ("base_model.model.", "base_model.model.net.", PREFIX_NOTES[PrefixKind.WRAPPED]),
        ("base_model.model.", "base_model.model.model.", PREFIX_NOTES[PrefixKind.WRAPPED]),
        ("base_model.model.", "module.", PREFIX_NOTES[PrefixKind.WRAPPED]),
    ],
)
def test_wrong_prefixes_are_repaired_and_noted(
    old: str, new: str, note: str, adapter_on: AdapterOn, tmp_path: Path
) -> None:
    whole = adapter_on("mono", "whole")
    keys = keys_of(made.renamed(whole, tmp_path / "renamed", old, new))
    assert {key.module for key in keys} == {key.module for key in keys_of(whole)}
    assert note in repair_notes(keys)


def test_a_whole_state_saved_with_the_adapters_name_is_read(checkpoint_of: CheckpointOf) -> None:
    network = MusicgenForConditionalGeneration.from_pretrained(checkpoint_of("mono"))
    config = LoraConfig(
        target_modules=[*made.ATTENTION, "embed_tokens.0"], modules_to_save=["lm_heads.1"], use_dora=True
    )
    adapted = get_peft_model(network, config, adapter_name="my-jazz")
    saved = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    keys = [parse_key(name) for name in saved]
    assert {key.kind for key in keys if key} == set(KeyKind)
    assert all(key is not None and key.has_adapter_name for key in keys)
    modules = {name for name, _ in made.load_network(checkpoint_of("mono")).named_modules()}
    assert {key.module for key in keys if key} <= modules
    assert repair_notes([key for key in keys if key]) == [ADAPTER_NAME_NOTE]


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.mlp.gate_proj.lora_A.weight",
        "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight",
        "base_model.model.model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
        "base_model.model.decoder.model.decoder.layers.0.self_attn.q_proj.lora_E",
        "base_model.model.decoder.model.decoder.layers.x.fc1.lora_A.weight",
        "base_model.model.decoder.model.decoder.layers.0.fc1.weight.extra",
        "base_model.model.decoder.model.decoder.layers.0.fc3.lora_A.weight",
        "prompt_encoder.weight",
        "",
        ".lora_A.weight",
        "\n.lora_A.weight",
        "decoder.lm_heads.0.lora_A.weight\n",
    ],
)
def test_names_of_other_models_are_none_of_ours(name: str) -> None:
    assert parse_key(name) is None


def test_the_trained_name_is_kept_for_patterns(adapter_on: AdapterOn) -> None:
    folder = adapter_on("mono", "patterns_decoder")
    told: dict[str, Any] = json.loads((folder / made.CONFIG).read_text())
    assert list(told["rank_pattern"]) == ["^model.decoder.layers.0.self_attn.k_proj"]
    assert "model.decoder.layers.0.self_attn.k_proj" in {key.trained_module for key in keys_of(folder)}
