"""A model whose equal layers were copied is the same, module by module, as one that was built whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from torch import nn

from gated_configs.memory import blueprint, equal_layers
from tests.memory.conftest import sample_config
from tests.memory.dwarfs import DWARFS
from tests.memory.samples import all_samples

#: Families that their own repositories call otherwise.
PUBLISHED_AS = {"glm": "chatglm", "minimax": "minimax_text_01"}
#: What tells a module apart: its class, its plain attributes, and the shapes of what it holds.
Seen = tuple[str, str, dict[str, Any], dict[str, Any], dict[str, Any]]

#: Layers that differ in the ways that their families allow.
UNEVEN: dict[str, dict[str, Any]] = {
    "dense first": {**DWARFS["deepseek-v3"].config, "num_hidden_layers": 5, "first_k_dense_replace": 2},
    "sparse every other": {
        **sample_config("qwen3-30b-a3b"),
        "num_hidden_layers": 7,
        "decoder_sparse_step": 2,
        "mlp_only_layers": [3],
    },
    "windows here and there": {
        **sample_config("gemma-2-2b"),
        "num_hidden_layers": 5,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"] + 2 * ["full_attention"],
    },
    "experts now and then": {
        **sample_config("jamba-v0.1"),
        "num_hidden_layers": 12,
        "expert_layer_period": 3,
        "attn_layer_period": 5,
        "attn_layer_offset": 1,
    },
}


def families(config: dict[str, Any]) -> Iterator[str]:
    """The families of a config and of its parts."""
    yield str(config.get("model_type")).removesuffix("_text")
    for part in config.values():
        if isinstance(part, dict) and "model_type" in part:
            yield from families(part)


def shallowest(family: str) -> dict[str, Any]:
    """The sample of a family that has the fewest layers."""
    names = {family, PUBLISHED_AS.get(family, family)}
    having = [sample.config for sample in all_samples() if names & set(families(sample.config))]
    config = min(having, key=lambda config: config.get("num_hidden_layers") or config.get("num_layers") or 24)
    if "attn_type_list" in config:  # MiniMax's eighty layers take seconds to build whole
        config = {**config, "num_hidden_layers": 9, "attn_type_list": config["attn_type_list"][:9]}
    return config


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The classes of the modules that are copied."""
    classes: set[str] = set()
    become = equal_layers._become

    def note(module: nn.Module, original: nn.Module, index: int) -> None:
        classes.add(type(module).__name__)
        become(module, original, index)

    monkeypatch.setattr(equal_layers, "_become", note)
    return classes


@pytest.mark.parametrize("name", equal_layers._KINDS)
def test_copies_are_what_would_have_been_built(
    name: str, copied: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    family, _, class_name = name.partition(".")
    assert_the_same(shallowest(family), monkeypatch)
    assert class_name in copied


@pytest.mark.parametrize("name", UNEVEN)
def test_layers_that_differ_are_not_copies(
    name: str, copied: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_the_same(UNEVEN[name], monkeypatch)
    assert copied


def assert_the_same(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A model built with copies is, module by module, the one built without."""
    blueprint.import_modules(config)
    quick = blueprint.draw(config).model
    monkeypatch.setattr(blueprint, "equal_layers_once", contextlib.nullcontext)
    whole = blueprint.draw(config).model
    for one, other in zip(list(seen(quick)), list(seen(whole)), strict=True):
        assert one == other
    # Each copy has parameters and buffers of its own.
    assert len(list(quick.parameters())) == len(list(whole.parameters()))
    assert len(list(quick.buffers())) == len(list(whole.buffers()))


def seen(model: nn.Module) -> Iterator[Seen]:
    for path, module in model.named_modules(remove_duplicate=False):
        plain = {
            key: value
            for key, value in vars(module).items()
            if isinstance(value, (int, float, str, bool, tuple, list, type(None))) and not key.startswith("_")
        }
        yield (
            path,
            type(module).__name__,
            plain,
            {key: value is not None and value.shape for key, value in module._parameters.items()},
            {key: value is not None and value.shape for key, value in module._buffers.items()},
        )
