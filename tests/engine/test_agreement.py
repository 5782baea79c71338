"""A faster way of computing says the same music: bfloat16 on the demo's trained weights, beside float32."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch

from generation.engine.agreement import Reference, agreement, reference
from generation.engine.checkpoint import LoadedModel, load_checkpoint
from generation.engine.packed import pack_decoder
from tests.engine.conftest import DEMO, TORCH_PACKS

PROMPT = "lo-fi hip hop with electric piano, bass and drums"


@pytest.fixture(scope="module")
def exact() -> LoadedModel:
    return load_checkpoint(str(DEMO), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def along(exact: LoadedModel) -> Reference:
    return reference(exact, prompt=PROMPT, frames=40)


def test_float32_agrees_with_itself(exact: LoadedModel) -> None:
    found = agreement(reference(exact, prompt=PROMPT, frames=20), exact)
    assert (found.divergence, found.top_1, found.tokens) == (0.0, 1.0, 4 * 20)


@pytest.mark.parametrize("how", ["plain", *(["packed"] if TORCH_PACKS["bfloat16"] else []), "compiled"])
def test_bfloat16_is_good_enough_to_be_offered(along: Reference, kernels_folder: Path, how: str) -> None:
    kept = kernels_folder if how == "compiled" else None
    other = load_checkpoint(str(DEMO), device="cpu", dtype="bfloat16", kept=kept)
    assert how == "plain" or pack_decoder(other.network, other.kernels)
    found = agreement(along, other)
    assert found.is_good, found
    assert found.divergence > 0


def test_what_is_heard_to_be_worse_is_not(exact: LoadedModel, along: Reference) -> None:
    """Weights in steps of their half spread, as three bits would have it."""
    network = copy.deepcopy(exact.network)
    with torch.no_grad():
        for layer in network.decoder.model.decoder.layers:
            for weight in layer.parameters():
                step = weight.std() / 2
                weight.copy_((weight / step).round() * step)
    found = agreement(along, dataclasses.replace(exact, network=network))
    assert not found.is_good, found
