"""Packed linear layers: the same answers from half the time, with no weight held twice."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from generation.engine import packed
from generation.engine.adapters.attach import Attachment
from generation.engine.adapters.proof import fixed_logits
from generation.engine.checkpoint import LoadedModel, load_checkpoint
from generation.engine.network import DecoderStep
from generation.engine.packed import PackedLinear, pack_decoder
from generation.engine.runner import prepare
from tests.engine.adapter_files import Make
from tests.engine.conftest import TORCH_PACKS, Library
from tests.engine.test_decode import codes_for


@pytest.fixture(scope="module", params=[dtype for dtype, can in TORCH_PACKS.items() if can])
def pair(request: pytest.FixtureRequest, mono: Path) -> tuple[LoadedModel, LoadedModel]:
    """A model as it is, and packed, in each dtype that this machine can pack."""
    plain = load_checkpoint(str(mono), device="cpu", dtype=request.param)
    return plain, packed_copy(plain)


def packed_copy(model: LoadedModel) -> LoadedModel:
    """The model with a packed decoder; the first stays as it is."""
    network = copy.deepcopy(model.network)
    assert pack_decoder(network), "this machine's torch can pack"
    return dataclasses.replace(model, network=network)


def assert_same(logits: torch.Tensor, wanted: torch.Tensor, pair: tuple[LoadedModel, LoadedModel]) -> None:
    """Equal, and in bfloat16, which has no room for a difference, to the bit."""
    exact = pair[0].dtype == torch.bfloat16
    tolerance = 0 if exact else 1e-4
    torch.testing.assert_close(logits, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TORCH_PACKS)
def test_it_is_done_where_it_can_be(mono: Path, dtype: str) -> None:
    model = load_checkpoint(str(mono), device="cpu", dtype=dtype)
    assert pack_decoder(model.network) == TORCH_PACKS[dtype]
    packed_layers = [each for each in model.network.modules() if isinstance(each, PackedLinear)]
    assert bool(packed_layers) == TORCH_PACKS[dtype]


def test_every_linear_layer_of_the_decoder_is_packed_and_is_still_itself(
    pair: tuple[LoadedModel, LoadedModel],
) -> None:
    plain, other = pair
    layers = dict(plain.network.decoder.named_modules())
    found = {
        path: module
        for path, module in other.network.decoder.named_modules()
        if isinstance(module, nn.Linear)
    }
    assert len(found) == len(plain.network.decoder.model.decoder.layers) * 10 + plain.codebooks
    for path, module in found.items():
        assert isinstance(module, PackedLinear)
        assert torch.equal(module.weight, layers[path].weight)
        rows = torch.randn(3, 2, module.in_features).to(plain.dtype)
        assert torch.equal(module.unpacked()(rows), layers[path](rows))
    assert (other.parameters, other.weight_bytes) == (plain.parameters, plain.weight_bytes)


def test_it_makes_the_same_music(pair: tuple[LoadedModel, LoadedModel]) -> None:
    plain, other = pair
    assert_same(fixed_logits(other), fixed_logits(plain), pair)


def test_greedy_tokens_equal_the_librarys(model: LoadedModel, library: Library) -> None:
    wanted, _ = library.generate("slow piano", do_sample=False, guidance_scale=3.0, max_new_tokens=43)
    assert torch.equal(codes_for(packed_copy(model), frames=40, greedy=True), wanted)


def test_rows_are_independent_of_their_company(pair: tuple[LoadedModel, LoadedModel]) -> None:
    assert DecoderStep(pair[1]).rows_agree()


@pytest.mark.parametrize("kind", ["decoder", "dora", "saved", "one-head", "embeddings"])
def test_adapters_change_it_as_they_change_the_plain_one(
    pair: tuple[LoadedModel, LoadedModel], mono: Path, make: Make, kind: str
) -> None:
    plain, other = pair
    use = make(mono, kind).use()
    wanted, got = (fixed_logits(Attachment().model_for(model, [use])) for model in pair)
    assert_same(got, wanted, pair)
    assert not torch.allclose(got, fixed_logits(plain), rtol=1e-3, atol=1e-3)
    assert_same(fixed_logits(other), fixed_logits(plain), pair)


def test_pages_of_the_file_are_given_back_and_read_again(tmp_path: Path) -> None:
    """A float32 checkpoint is mapped: without that, each weight would be resident twice."""
    save_file({"weight": torch.randn(4096, 4096)}, tmp_path / "one.safetensors")
    weight = load_file(tmp_path / "one.safetensors")["weight"]
    total = weight.sum()
    before = psutil.Process().memory_info().rss
    packed._let_go(weight, packed._file_mappings())
    assert before - psutil.Process().memory_info().rss > 0.9 * 4 * weight.numel()
    assert weight.sum() == total


def test_memory_that_is_no_file_is_left_alone() -> None:
    weight = torch.ones(1024, 1024)
    packed._let_go(weight, packed._file_mappings())
    assert weight.sum() == weight.numel()


def test_what_a_build_cannot_pack_stays_plain(
    mono_model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(plain: nn.Linear) -> nn.Linear:
        raise RuntimeError("mkldnn is not there")

    network = copy.deepcopy(mono_model.network)
    monkeypatch.setattr(packed, "PackedLinear", refuse)
    assert not pack_decoder(network)
    assert {type(module) for module in network.decoder.modules() if isinstance(module, nn.Linear)} == {
        nn.Linear
    }


@pytest.mark.parametrize(("worth", "is_packed"), [(10**9, False), (1, True)])
def test_only_models_worth_it_are_packed(
    mono_model: LoadedModel, monkeypatch: pytest.MonkeyPatch, worth: int, is_packed: bool
) -> None:
    monkeypatch.setattr("generation.engine.runner.PARAMETERS_WORTH_THREADS", worth)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    model = dataclasses.replace(mono_model, network=copy.deepcopy(mono_model.network))
    prepare(model)
    assert any(isinstance(module, PackedLinear) for module in model.network.modules()) == is_packed
