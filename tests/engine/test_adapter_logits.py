"""An adapter in the engine beside the same adapter in peft, on dwarf checkpoints, in float32."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoProcessor, MusicgenForConditionalGeneration

from generation.engine.adapters.attach import Attachment
from generation.engine.adapters.proof import fixed_logits
from generation.engine.checkpoint import LoadedModel, load_checkpoint
from generation.engine.errors import EngineError
from generation.engine.protocol import ADAPTER_UNSUPPORTED, AdapterUse
from tests.engine.adapter_files import KINDS, Make, with_peft
from tests.engine.conftest import Library
from tests.engine.test_decode import codes_for


def logits_with(model: LoadedModel, *uses: AdapterUse) -> Tensor:
    """Logits [K, L, V] of the fixed input with adapters attached."""
    return fixed_logits(Attachment().model_for(model, uses))


def logits_of(model: LoadedModel, network: MusicgenForConditionalGeneration) -> Tensor:
    """The same of any network."""
    return fixed_logits(dataclasses.replace(model, network=network))


def state_of(model: LoadedModel) -> dict[str, tuple[int, int, bytes]]:
    """Every weight of the base: which tensor, how often it was written to, and its bytes."""
    return {
        name: (id(tensor), tensor._version, tensor.detach().numpy().tobytes())
        for name, tensor in model.network.named_parameters()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_pefts_and_the_base_stays(
    model: LoadedModel, dwarf: Path, make: Make, kind: str
) -> None:
    base, before, modules = fixed_logits(model), state_of(model), list(model.network.named_modules())
    adapter = make(dwarf, kind)
    got = logits_with(model, adapter.use())
    assert torch.equal(got, logits_of(model, with_peft(dwarf, adapter)))
    assert (got - base).abs().mean() > 1e-3
    assert torch.equal(fixed_logits(model), base)
    assert state_of(model) == before
    assert list(model.network.named_modules()) == modules


@pytest.mark.parametrize("kind", ["whole", "dora", "embeddings", "saved"])
def test_greedy_tokens_equal_pefts(model: LoadedModel, dwarf: Path, make: Make, kind: str) -> None:
    adapter = make(dwarf, kind)
    peft = Library(network=with_peft(dwarf, adapter), processor=AutoProcessor.from_pretrained(dwarf))
    wanted, _ = peft.generate("slow piano", do_sample=False, guidance_scale=3.0, max_new_tokens=43)
    adapted = Attachment().model_for(model, [adapter.use()])
    got = codes_for(adapted, frames=40, greedy=True)
    assert torch.equal(got, wanted)
    assert not torch.equal(codes_for(model, frames=40, greedy=True), wanted)


@pytest.mark.parametrize("kinds", [("decoder", "rslora"), ("embeddings", "patterns")])
def test_two_adapters_stack_as_in_peft(
    mono_model: LoadedModel, mono: Path, make: Make, kinds: tuple[str, str]
) -> None:
    pair = [make(mono, kind, seed) for seed, kind in enumerate(kinds)]
    got = logits_with(mono_model, *(each.use() for each in pair))
    torch.testing.assert_close(got, logits_of(mono_model, with_peft(mono, *pair)))
    for each in pair:
        assert (got - logits_with(mono_model, each.use())).abs().mean() > 1e-3


@pytest.mark.parametrize("kind", ["one-head", "one-dora", "one-saved"])
@pytest.mark.parametrize("strength", [0.25, 0.5, 1.7])
def test_strength_multiplies_the_difference_to_the_base(
    mono_model: LoadedModel, mono: Path, make: Make, kind: str, strength: float
) -> None:
    adapter = make(mono, kind)
    base, at_one = fixed_logits(mono_model), logits_with(mono_model, adapter.use())
    got = logits_with(mono_model, adapter.use(strength))
    torch.testing.assert_close(got, base + strength * (at_one - base), rtol=1e-4, atol=1e-5)
    assert (got - at_one).abs().mean() > 1e-3


@pytest.mark.parametrize(
    "kinds", [("one-head", "one-dora"), ("one-saved", "one-head"), ("one-dora", "one-dora")]
)
def test_strengths_of_two_add_up_whatever_their_kind(
    mono_model: LoadedModel, mono: Path, make: Make, kinds: tuple[str, str]
) -> None:
    first, second = (make(mono, kind, seed) for seed, kind in enumerate(kinds))
    base = fixed_logits(mono_model)
    wanted = base + 0.5 * (logits_with(mono_model, first.use()) - base)
    wanted = wanted + 0.25 * (logits_with(mono_model, second.use()) - base)
    got = logits_with(mono_model, first.use(0.5), second.use(0.25))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["decoder", "dora", "saved-layer"])
def test_strength_zero_is_the_base_itself(mono_model: LoadedModel, mono: Path, make: Make, kind: str) -> None:
    adapter = make(mono, kind)
    attachment = Attachment()
    assert attachment.model_for(mono_model, [adapter.use(0.0)]) is mono_model
    other = make(mono, "heads")
    mixed = attachment.model_for(mono_model, [adapter.use(0.0), other.use()])
    assert torch.equal(fixed_logits(mixed), logits_with(mono_model, other.use()))


def test_the_same_adapters_stay_attached_and_others_do_not(
    mono_model: LoadedModel, mono: Path, make: Make
) -> None:
    first, second = make(mono, "decoder"), make(mono, "heads")
    attachment = Attachment()
    kept = attachment.model_for(mono_model, [first.use()])
    assert attachment.model_for(mono_model, [first.use()]) is kept
    assert attachment.model_for(mono_model, [first.use(0.5)]) is not kept
    assert attachment.model_for(mono_model, [second.use(), first.use()]) is not kept
    assert attachment.model_for(mono_model, []) is mono_model
    assert attachment.attached == []


@pytest.mark.parametrize("kind", ["whole", "dora", "dora-embeddings", "saved"])
def test_a_base_in_bfloat16_gives_what_peft_gives_and_the_adapter_keeps_its_digits(
    mono: Path, make: Make, kind: str
) -> None:
    half = load_checkpoint(str(mono), device="cpu", dtype="bfloat16")
    adapter = make(mono, kind)
    adapted = Attachment().model_for(half, [adapter.use()])
    named = adapted.network.named_parameters()
    assert {weight.dtype for name, weight in named if "lora_" in name} == {torch.float32}
    peft = with_peft(mono, adapter, dtype=torch.bfloat16)
    got = fixed_logits(adapted)
    assert torch.equal(got, logits_of(half, peft))
    assert (got - fixed_logits(half)).abs().mean() > 1e-3
    assert codes_for(adapted, frames=12, greedy=True).shape == (4, 12)


@pytest.mark.parametrize(("whole", "other"), [("one-saved", "one-dora"), ("one-dora", "one-saved")])
def test_one_that_replaces_what_the_other_rescales_is_refused(
    mono_model: LoadedModel, mono: Path, make: Make, whole: str, other: str
) -> None:
    with pytest.raises(EngineError, match="cannot act together") as caught:
        logits_with(mono_model, make(mono, whole).use(), make(mono, other, 1).use())
    assert caught.value.error_code == ADAPTER_UNSUPPORTED
    assert caught.value.detail == "decoder.lm_heads.1"
    assert "'one-saved-" in caught.value.message
    assert "'one-dora-" in caught.value.message
