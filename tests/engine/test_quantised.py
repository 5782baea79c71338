"""Weights of 8 and 4 bits: near float32 on a trained model, the same alone and in company, with adapters, and small.

By compiled kernels, and by torch's own where there are none.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest
import torch
from torch import nn

from generation.engine.adapters.attach import Attachment
from generation.engine.adapters.proof import fixed_logits
from generation.engine.agreement import Agreement, Reference, agreement, reference
from generation.engine.checkpoint import LoadedModel, load_checkpoint
from generation.engine.errors import EngineError
from generation.engine.network import DecoderStep
from generation.engine.packed import CompiledLinear, PackedLinear, pack_decoder
from generation.engine.quantised import CompiledInt4Linear, CompiledInt8Linear, Int4Linear, Int8Linear
from tests.engine.adapter_files import Make
from tests.engine.conftest import DEMO, TORCH_PACKS
from tests.engine.test_kernels import needs_compiler

KINDS = {"int8": (Int8Linear, CompiledInt8Linear), "int4": (Int4Linear, CompiledInt4Linear)}
PROMPTS = ["lo-fi hip hop with electric piano, bass and drums", "calm piano lullaby", "fast rock with drums"]


@pytest.fixture(
    scope="module", params=[False, pytest.param(True, marks=needs_compiler)], ids=["torch", "compiled"]
)
def kept(request: pytest.FixtureRequest, kernels_folder: Path) -> Path | None:
    """The folder for compiled kernels, or none."""
    return kernels_folder if request.param else None


@pytest.fixture(scope="module")
def plain() -> LoadedModel:
    """The demo in float32 as it is loaded without anything for speed."""
    return load_checkpoint(str(DEMO), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def along(kernels_folder: Path) -> list[Reference]:
    """Takes of the demo in float32, which is as quick as it can be."""
    model = load_checkpoint(str(DEMO), device="cpu", dtype="float32", kept=kernels_folder)
    pack_decoder(model.network, model.kernels)
    return [reference(model, prompt=prompt, frames=150) for prompt in PROMPTS]


@pytest.fixture(scope="module", params=["int8", "int4"])
def quantised(request: pytest.FixtureRequest, kept: Path | None) -> LoadedModel:
    """The demo with its decoder's layers in that form, its heads packed as a runner packs them."""
    model = load_checkpoint(str(DEMO), device="cpu", dtype=request.param, kept=kept)
    assert model.format_name == request.param
    assert (model.kernels is None) == (kept is None)
    assert pack_decoder(model.network, model.kernels) == (kept is not None or TORCH_PACKS["bfloat16"])
    return model


def test_layers_are_held_in_it_and_heads_are_not(quantised: LoadedModel) -> None:
    decoder, plain = quantised.network.decoder, load_checkpoint(str(DEMO), device="cpu", dtype="bfloat16")
    layers = {path: each for path, each in decoder.named_modules() if isinstance(each, nn.Linear)}
    is_compiled = quantised.kernels is not None
    for path, each in layers.items():
        if "layers" in path:
            assert type(each) is KINDS["int8" if ".0." in path else quantised.format_name][is_compiled], path
    heads = {type(each) for path, each in layers.items() if "lm_heads" in path}
    assert heads == {
        CompiledLinear if is_compiled else PackedLinear if TORCH_PACKS["bfloat16"] else nn.Linear
    }
    assert quantised.parameters == plain.parameters
    share = {"int8": 0.5, "int4": 0.5 / 6 + 0.3125 * 5 / 6}[quantised.format_name]
    of_layers = sum(each.numel() for each in plain.network.decoder.model.decoder.layers.parameters())
    saved = plain.weight_bytes - quantised.weight_bytes
    assert saved == pytest.approx(2 * of_layers * (1 - share), rel=0.02)
    others = [*quantised.network.text_encoder.parameters(), *decoder.parameters()]
    assert {each.dtype for each in others} == {torch.bfloat16}
    assert {each.dtype for each in quantised.network.audio_encoder.parameters()} == {torch.float32}


def test_a_layer_answers_what_its_weight_says(quantised: LoadedModel, plain: LoadedModel) -> None:
    layer, exact = (each.network.decoder.model.decoder.layers[1].fc1 for each in (quantised, plain))
    rows = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    answered, wanted = (
        each.float() for each in (layer(rows), nn.functional.linear(rows, layer.weight.bfloat16()))
    )
    assert (answered - wanted).std() < 0.01 * wanted.std()
    error = (layer.weight.float() - exact.weight).abs().max() / exact.weight.abs().max()
    assert error < {"int8": 0.01, "int4": 0.12}[quantised.format_name]


def test_it_is_good_enough_to_be_offered(quantised: LoadedModel, along: list[Reference]) -> None:
    found = [agreement(exact, quantised) for exact in along]
    together = Agreement(
        divergence=mean(each.divergence for each in found),
        top_1=mean(each.top_1 for each in found),
        tokens=sum(each.tokens for each in found),
    )
    assert together.is_good, together
    assert together.divergence > 0


def test_a_row_does_not_depend_on_its_company(quantised: LoadedModel) -> None:
    step = DecoderStep(quantised)
    assert step.is_compiled == (quantised.kernels is not None)
    assert step.rows_agree()


@pytest.mark.parametrize("form", KINDS)
@pytest.mark.parametrize("kind", ["decoder", "dora", "saved"])
def test_adapters_change_it(make: Make, form: str, kind: str, kept: Path | None, plain: LoadedModel) -> None:
    model = load_checkpoint(str(DEMO), device="cpu", dtype=form, kept=kept)
    base = fixed_logits(model)
    use = make(DEMO, kind).use()
    got, wanted = (fixed_logits(Attachment().model_for(each, [use])) for each in (model, plain))
    assert (got - base).abs().mean() > 1e-3
    assert (got - wanted).abs().mean() < 0.5 * (wanted - fixed_logits(plain)).abs().mean()
    assert torch.equal(fixed_logits(model), base)


def test_it_is_for_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("generation.engine.checkpoint.choose_device", lambda name: torch.device("cuda"))
    with pytest.raises(EngineError) as refused:
        load_checkpoint(str(DEMO), device="auto", dtype="int4")
    assert "int4 is for processors" in refused.value.message
