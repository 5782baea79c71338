"""What the engine refuses of adapters, each with a code and a sentence, and with the base as it was."""

from __future__ import annotations

import hashlib
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from generation.engine.adapters.attach import Attachment
from generation.engine.adapters.proof import fixed_logits, prove
from generation.engine.adapters.weights import WeightsCache
from generation.engine.checkpoint import LoadedModel
from generation.engine.company import render
from generation.engine.errors import EngineError
from generation.engine.protocol import (
    ADAPTER_BROKEN,
    ADAPTER_MISMATCH,
    ADAPTER_NO_EFFECT,
    ADAPTER_NOT_FOUND,
    ADAPTER_UNSUPPORTED,
    INVALID_REQUEST,
    AdapterUse,
    Prove,
    Proved,
)
from tests.engine.adapter_files import AdapterFiles, Make, network_of
from tests.engine.conftest import generate
from tests.engine.test_adapter_logits import logits_with, state_of

A_KEY = "base_model.model.model.decoder.layers.0.self_attn.q_proj.lora_A.weight"


def refusal(model: LoadedModel, *uses: AdapterUse) -> EngineError:
    """What attaching raises, once it is sure that it left nothing behind."""
    base, before, modules = fixed_logits(model), state_of(model), list(model.network.named_modules())
    attachment = Attachment()
    with pytest.raises(EngineError) as caught:
        attachment.model_for(model, uses)
    assert torch.equal(fixed_logits(attachment.model_for(model, [])), base)
    assert state_of(model) == before
    assert list(model.network.named_modules()) == modules
    assert caught.value.message.endswith(".")
    return caught.value


Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]

TENSORS: dict[str, tuple[str, Change, str, str]] = {
    "another kind of model": (
        "decoder",
        lambda tensors: {
            name.replace("model.decoder.layers", "model.blocks"): tensor for name, tensor in tensors.items()
        },
        ADAPTER_MISMATCH,
        "16 of its 16 tensors have no place",
    ),
    "one stray tensor": (
        "decoder",
        lambda tensors: {**tensors, "something.else": torch.ones(1)},
        ADAPTER_MISMATCH,
        "1 of its 17 tensors",
    ),
    "a missing half": (
        "decoder",
        lambda tensors: {name: tensor for name, tensor in tensors.items() if name != A_KEY},
        ADAPTER_BROKEN,
        "do not agree on the tensors of a module",
    ),
    "a missing module": (
        "decoder",
        lambda tensors: {
            name: tensor for name, tensor in tensors.items() if "layers.1.self_attn.q" not in name
        },
        ADAPTER_MISMATCH,
        "nothing for 1 modules of this model that it should change",
    ),
    "a missing magnitude": (
        "dora",
        lambda tensors: {
            name: tensor for name, tensor in tensors.items() if "layers.0.fc2.lora_mag" not in name
        },
        ADAPTER_BROKEN,
        "do not agree on the tensors of a module",
    ),
    "NaN": (
        "decoder",
        lambda tensors: {**tensors, A_KEY: torch.full_like(tensors[A_KEY], torch.nan)},
        ADAPTER_BROKEN,
        "values that are not numbers",
    ),
    "whole numbers": (
        "decoder",
        lambda tensors: {**tensors, A_KEY: tensors[A_KEY].long()},
        ADAPTER_BROKEN,
        "numbers that are no weights",
    ),
    "another rank": (
        "decoder",
        lambda tensors: {
            name: tensor[:2].contiguous() if "lora_A" in name else tensor[:, :2].contiguous()
            for name, tensor in tensors.items()
        },
        ADAPTER_BROKEN,
        "do not agree on a rank",
    ),
    "matrices of two ranks": (
        "decoder",
        lambda tensors: {**tensors, A_KEY: tensors[A_KEY][:2].contiguous()},
        ADAPTER_BROKEN,
        "cannot be multiplied",
    ),
    "another width": (
        "decoder",
        lambda tensors: {**tensors, A_KEY: tensors[A_KEY][:, :-1].contiguous()},
        ADAPTER_MISMATCH,
        "a model of another size",
    ),
    "another width saved": (
        "saved",
        lambda tensors: {
            name: tensor[:-1].contiguous() if name.endswith("lm_heads.0.weight") else tensor
            for name, tensor in tensors.items()
        },
        ADAPTER_MISMATCH,
        "a model of another size",
    ),
    "a weight that is not there": (
        "saved",
        lambda tensors: {**tensors, "base_model.model.lm_heads.0.bias": torch.ones(32)},
        ADAPTER_MISMATCH,
        "is not there in this model",
    ),
    "twice the same": (
        "decoder",
        lambda tensors: {**tensors, A_KEY.removeprefix("base_model.model."): tensors[A_KEY].clone()},
        ADAPTER_BROKEN,
        "one tensor under two names",
    ),
    "whole and in low rank": (
        "saved",
        lambda tensors: {
            **tensors,
            "base_model.model.model.decoder.layers.0.self_attn.q_proj.weight": torch.ones(16, 16),
        },
        ADAPTER_UNSUPPORTED,
        "whole and in low rank at once",
    ),
    "nothing": ("decoder", lambda tensors: {}, ADAPTER_BROKEN, "holds no tensors"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_do_not_fit_are_refused(
    mono_model: LoadedModel, mono: Path, make: Make, tmp_path: Path, case: str
) -> None:
    kind, change, code, words = TENSORS[case]
    adapter = make(mono, kind).rewritten(tmp_path / "Jazz", change)
    error = refusal(mono_model, adapter.use())
    assert (error.error_code, "'Jazz'" in error.message) == (code, True)
    assert words in error.message


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"peft_type": "IA3"}, ADAPTER_UNSUPPORTED, "IA³"),
        ({"init_lora_weights": "pissa"}, ADAPTER_UNSUPPORTED, "PiSSA"),
        ({"use_qalora": True}, ADAPTER_UNSUPPORTED, "QA-LoRA"),
        ({"r": 8}, ADAPTER_BROKEN, "do not agree on a rank"),
        ({"use_dora": True}, ADAPTER_BROKEN, "do not agree on the tensors"),
        ({"r": "four"}, ADAPTER_BROKEN, "config"),
    ],
    ids=str,
)
def test_configs_that_the_engine_cannot_do_are_refused(
    mono_model: LoadedModel,
    mono: Path,
    make: Make,
    tmp_path: Path,
    changes: dict[str, Any],
    code: str,
    words: str,
) -> None:
    adapter = make(mono, "decoder").reconfigured(tmp_path / "Jazz", **changes)
    error = refusal(mono_model, adapter.use())
    assert (error.error_code, words in error.message) == (code, True)


def _truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "content",
    [_truncated, lambda content: pickle.dumps({"weight": 1}), lambda content: b""],
    ids=["truncated", "pickle", "empty"],
)
def test_a_file_that_is_no_safetensors_is_refused(
    mono_model: LoadedModel, mono: Path, make: Make, tmp_path: Path, content: Callable[[bytes], bytes]
) -> None:
    adapter = make(mono, "decoder")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(content(adapter.weights.read_bytes()))
    sha256 = hashlib.sha256(broken.read_bytes()).hexdigest()
    error = refusal(mono_model, adapter.use(path=str(broken), sha256=sha256))
    assert (error.error_code, "no sound safetensors file" in error.message) == (ADAPTER_BROKEN, True)


def test_a_file_that_is_gone_or_another_one_is_refused(
    mono_model: LoadedModel, mono: Path, make: Make, tmp_path: Path
) -> None:
    adapter, other = make(mono, "decoder"), make(mono, "heads")
    error = refusal(mono_model, adapter.use(path=str(tmp_path / "none")))
    assert (error.error_code, "Import the adapter again." in error.message) == (ADAPTER_NOT_FOUND, True)
    error = refusal(mono_model, adapter.use(path=str(other.weights)))
    assert (error.error_code, "not the one that was imported" in error.message) == (ADAPTER_BROKEN, True)


def test_an_adapter_of_the_codec_is_refused(mono_model: LoadedModel, mono: Path, tmp_path: Path) -> None:
    network = network_of(mono)
    config = LoraConfig(r=2, target_modules=["fc1"], modules_to_save=["audio_encoder.decoder.layers.1"])
    get_peft_model(network, config).save_pretrained(str(tmp_path / "Codec"))
    error = refusal(mono_model, AdapterFiles(tmp_path / "Codec", "whole").use())
    assert (error.error_code, "changes the codec" in error.message) == (ADAPTER_UNSUPPORTED, True)


def test_one_of_two_that_fails_fails_both_and_attaches_neither(
    mono_model: LoadedModel, mono: Path, make: Make, tmp_path: Path
) -> None:
    sound, gone = make(mono, "decoder"), make(mono, "heads").use(path=str(tmp_path / "none"))
    assert refusal(mono_model, sound.use(), gone).error_code == ADAPTER_NOT_FOUND


def test_a_failed_attach_lets_go_of_what_was_attached(
    mono_model: LoadedModel, mono: Path, make: Make, tmp_path: Path
) -> None:
    attachment = Attachment()
    network = weakref.ref(attachment.model_for(mono_model, [make(mono, "decoder").use()]).network)
    assert network() is not None
    with pytest.raises(EngineError):
        attachment.model_for(mono_model, [make(mono, "heads").use(path=str(tmp_path / "none"))])
    assert (attachment.attached, network()) == ([], None)


@pytest.mark.parametrize("strength", [-0.5, float("nan"), float("inf")])
def test_a_strength_that_is_none_is_refused(
    mono_model: LoadedModel, mono: Path, make: Make, tmp_path: Path, strength: float
) -> None:
    command = generate(tmp_path / "a.wav", adapters=[make(mono, "decoder").use(strength)])
    with pytest.raises(EngineError, match="adapters must be of a strength of 0 or more") as caught:
        render(mono_model, command, on_stage=lambda *args: None, should_stop=lambda: False)
    assert caught.value.error_code == INVALID_REQUEST


# --- proof ---


def proved(model: LoadedModel, adapter: AdapterFiles) -> Proved:
    return prove(model, Prove(request="p", adapter=adapter.use(0.3)), Attachment())


@pytest.mark.parametrize("kind", ["decoder", "whole", "dora-embeddings", "saved"])
def test_a_proof_tells_what_the_adapter_does(model: LoadedModel, dwarf: Path, make: Make, kind: str) -> None:
    adapter = make(dwarf, kind)
    proof = proved(model, adapter)
    change = (logits_with(model, adapter.use()).double() - fixed_logits(model).double()).abs().mean()
    assert proof.logit_change == pytest.approx(float(change), rel=1e-12)
    assert (proof.logit_change_at_zero, proof.logit_change_after) == (0.0, 0.0)
    assert proof.tensors_expected == proof.tensors_matched > 4
    assert any("Trained on the decoder alone" in note for note in proof.notes) == (kind != "whole")
    assert proof.seconds > 0
    assert proved(model, adapter).logit_change == proof.logit_change


def _zeroed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(each) if "lora_B" in name else each for name, each in tensors.items()}


def test_an_adapter_without_effect_proves_nothing(
    mono_model: LoadedModel, mono: Path, make: Make, tmp_path: Path
) -> None:
    adapter = make(mono, "decoder").rewritten(tmp_path / "Jazz", _zeroed)
    with pytest.raises(EngineError, match="'Jazz' fits this model but changes nothing") as caught:
        proved(mono_model, adapter)
    assert caught.value.error_code == ADAPTER_NO_EFFECT


def test_an_adapter_that_explodes_proves_nothing(
    mono_model: LoadedModel, mono: Path, make: Make, tmp_path: Path
) -> None:
    adapter = make(mono, "heads").rewritten(
        tmp_path / "Jazz", lambda tensors: {name: each * 1e30 for name, each in tensors.items()}
    )
    with pytest.raises(EngineError, match="stops being a number") as caught:
        proved(mono_model, adapter)
    assert caught.value.error_code == ADAPTER_BROKEN


# --- the cache ---


def test_weights_are_kept_within_a_bound_least_recent_first(mono: Path, make: Make) -> None:
    first, second, third = (make(mono, kind).use() for kind in ("decoder", "rslora", "heads"))
    sizes = [WeightsCache().get(each).held_bytes for each in (first, second, third)]
    cache = WeightsCache(sum(sizes) - 1)
    kept = cache.get(first)
    cache.get(second)
    assert cache.get(first) is kept
    cache.get(third)
    assert cache.held_bytes == sizes[0] + sizes[2]
    assert cache.get(first) is kept
    small = WeightsCache(1)
    assert small.get(first).tensors.keys() == kept.tensors.keys()
    assert small.held_bytes == 0


def test_a_file_is_read_once(mono: Path, make: Make, tmp_path: Path) -> None:
    adapter = make(mono, "decoder").rewritten(tmp_path / "copy", dict)
    cache, use = WeightsCache(), adapter.use()
    kept = cache.get(use)
    adapter.weights.unlink()
    assert cache.get(use) is kept
