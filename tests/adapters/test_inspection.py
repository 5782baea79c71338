"""Files that are no sound adapter are each refused by what they are; sound ones say what was repaired."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from adapters.format.errors import AdapterRefused, BrokenAdapter, NotAnAdapter, UnsupportedAdapter
from adapters.format.inspection import Inspection, identity, inspect
from tests.adapters import made
from tests.adapters.conftest import AdapterOn, CheckpointOf
from tests.conftest import ROOT


def look(folder: Path) -> Inspection:
    weights = next(path for path in folder.iterdir() if path.suffix == ".safetensors")
    config = folder / made.CONFIG
    return inspect(weights, config.read_bytes() if config.exists() else None)


def refusal(folder: Path, kind: type[AdapterRefused]) -> AdapterRefused:
    with pytest.raises(AdapterRefused) as refused:
        look(folder)
    assert type(refused.value) is kind
    # A sentence or two, that end.
    assert refused.value.message.endswith(".")
    assert refused.value.message[0].isupper()
    return refused.value


@pytest.mark.parametrize(
    ("way", "variants"),
    [
        ("whole", []),
        ("heads_and_embeddings", ["heads", "embeddings"]),
        ("rslora", ["rsLoRA"]),
        ("dora", ["DoRA"]),
        ("patterns", ["rank pattern", "alpha pattern"]),
        ("saved_modules", ["saved modules", "heads"]),
    ],
)
def test_a_sound_adapter_says_what_it_is(way: str, variants: list[str], adapter_on: AdapterOn) -> None:
    folder = adapter_on("mono", way)
    found = look(folder)
    assert found.variants == variants
    assert (found.rank, found.alpha) == (4, 8)
    assert found.tensor_count == len(found.header.tensors) >= 16
    assert found.notes == ()


def test_settings_that_nobody_knows_are_noted(adapter_on: AdapterOn, tmp_path: Path) -> None:
    folder = made.reconfigure(adapter_on(), tmp_path / "a", use_quantum=True)
    assert "use_quantum" in look(folder).notes[0]


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (made.zero_b, "ADAPTER_NO_EFFECT", "changes nothing"),
        (made.with_nan, "ADAPTER_NOT_FINITE", "no numbers"),
        (
            lambda folder, target: made.with_nan(folder, target, float("inf")),
            "ADAPTER_NOT_FINITE",
            "no numbers",
        ),
        (made.missing_pair, "ADAPTER_INCOMPLETE", "lacks its lora_B"),
        (made.truncated, "WEIGHTS_TRUNCATED", "cut off"),
        (
            lambda folder, target: made.rewrite(
                folder, target, lambda tensors: {**tensors, "odd.weight": torch.ones(1)}
            ),
            "ADAPTER_TENSORS_UNKNOWN",
            "1 of 59, such as odd.weight",
        ),
        (
            lambda folder, target: made.rewrite(
                folder,
                target,
                lambda tensors: {
                    name: tensor[:3] if "lora_A" in name else tensor for name, tensor in tensors.items()
                },
            ),
            "ADAPTER_INCOMPLETE",
            "do not fit together",
        ),
        (lambda folder, target: made.reconfigure(folder, target, r=8), "ADAPTER_INCOMPLETE", "rank 8"),
        (
            lambda folder, target: made.reconfigure(folder, target, use_dora=True),
            "ADAPTER_INCOMPLETE",
            "magnitude",
        ),
        (
            lambda folder, target: made.reconfigure(folder, target, lora_alpha=0),
            "ADAPTER_NO_EFFECT",
            "changes nothing",
        ),
        (
            lambda folder, target: made.rewrite(
                folder,
                target,
                lambda tensors: (
                    tensors
                    | {name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items()}
                ),
            ),
            "ADAPTER_INCOMPLETE",
            "two tensors for the same place",
        ),
    ],
)
def test_a_broken_adapter_says_what_is_broken(
    spoil: Callable[[Path, Path], Path], code: str, words: str, adapter_on: AdapterOn, tmp_path: Path
) -> None:
    refused = refusal(spoil(adapter_on("mono", "heads_and_embeddings"), tmp_path / "spoiled"), BrokenAdapter)
    assert refused.code == code
    assert words in refused.message


def test_some_zero_tensors_are_no_matter(adapter_on: AdapterOn, tmp_path: Path) -> None:
    def zero_most(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        kept = max(name for name in tensors if "lora_B" in name)
        return {
            name: torch.zeros_like(tensor) if "lora_B" in name and name != kept else tensor
            for name, tensor in tensors.items()
        }

    assert look(made.rewrite(adapter_on(), tmp_path / "a", zero_most)).tensor_count == 32


def test_zero_pairs_act_where_modules_are_saved_whole(adapter_on: AdapterOn, tmp_path: Path) -> None:
    assert look(made.zero_b(adapter_on("mono", "saved_modules"), tmp_path / "a")).variants == [
        "saved modules",
        "heads",
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_precision_of_floats_is_taken(
    dtype: torch.dtype, adapter_on: AdapterOn, tmp_path: Path
) -> None:
    assert look(made.cast(adapter_on(), tmp_path / "a", dtype)).rank == 4


def test_other_types_are_refused_by_name(adapter_on: AdapterOn, tmp_path: Path) -> None:
    refused = refusal(made.cast(adapter_on(), tmp_path / "a", torch.float8_e4m3fn), UnsupportedAdapter)
    assert "F8_E4M3" in refused.message


def test_trained_biases_are_refused_by_name(adapter_on: AdapterOn) -> None:
    recipe = made.Recipe(targets=("enc_to_dec_proj",), extra=(("bias", "lora_only"),))
    refused = refusal(adapter_on("mono", recipe), UnsupportedAdapter)
    assert "trained biases" in refused.message


def test_a_bias_setting_without_biases_is_no_matter(adapter_on: AdapterOn) -> None:
    # The decoder's linear layers have none.
    assert look(adapter_on("mono", made.Recipe(extra=(("bias", "lora_only"),)))).rank == 4


def test_copies_of_the_base_are_refused_by_name(checkpoint_of: CheckpointOf, tmp_path: Path) -> None:
    adapted = get_peft_model(
        made.load_network(checkpoint_of("mono")), LoraConfig(target_modules=["q_proj", "lm_heads.0"])
    )
    adapted.save_pretrained(str(tmp_path / "a"), save_embedding_layers=True)
    assert "save_embedding_layers=False" in refusal(tmp_path / "a", UnsupportedAdapter).message


# --- what is no adapter ---


def test_a_whole_model_is_named(checkpoint_of: CheckpointOf, tmp_path: Path) -> None:
    refused = refusal(made.full_checkpoint(checkpoint_of("mono"), tmp_path / "full"), NotAnAdapter)
    assert refused.code == "FULL_CHECKPOINT"
    assert "whole fine-tuned model" in refused.message


def test_a_whole_model_is_named_beside_an_adapters_config(
    checkpoint_of: CheckpointOf, adapter_on: AdapterOn, tmp_path: Path
) -> None:
    folder = made.full_checkpoint(checkpoint_of("mono"), tmp_path / "full")
    shutil.copy(adapter_on() / made.CONFIG, folder)
    assert refusal(folder, NotAnAdapter).code == "FULL_CHECKPOINT"


def test_a_model_of_audiocraft_is_named(tmp_path: Path) -> None:
    refused = refusal(made.audiocraft_state(tmp_path / "a"), NotAnAdapter)
    assert refused.code == "AUDIOCRAFT_CHECKPOINT"
    assert "audiocraft" in refused.message


def test_weights_without_a_config_say_what_is_missing(adapter_on: AdapterOn, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adapter_on(), tmp_path / "a"))
    (folder / made.CONFIG).unlink()
    refused = refusal(folder, NotAnAdapter)
    assert refused.code == "NO_CONFIG"
    assert "adapter_config.json is missing" in refused.message


def test_an_adapter_of_a_language_model_is_named(tmp_path: Path) -> None:
    folder = made.language_model_adapter(tmp_path / "a")
    assert "Llama-3.2-1B" in refusal(folder, NotAnAdapter).message
    without_base = made.with_base(folder, tmp_path / "b", None)
    refused = refusal(without_base, NotAnAdapter)
    assert refused.code == "OTHER_MODEL"
    assert "a language model" in refused.message


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
        "unet.down_blocks.0.attentions.0.to_q.lora.down.weight",
        "transformer.single_blocks.0.attn.to_q.lora_A.weight",
    ],
)
def test_an_adapter_of_an_image_model_is_named(name: str, tmp_path: Path) -> None:
    save_file({name: torch.ones(2, 2)}, tmp_path / "lora.safetensors")
    refused = refusal(tmp_path, NotAnAdapter)
    assert refused.code == "OTHER_MODEL"
    assert "image model" in refused.message


@pytest.mark.parametrize(
    "settings",
    [
        {"base_model_name_or_path": "facebook/opt-350m", "auto_mapping": None},
        {"base_model_name_or_path": "openai/whisper-small", "auto_mapping": None},
        {
            "base_model_name_or_path": None,
            "auto_mapping": {
                "base_model_class": "OPTForCausalLM",
                "parent_library": "transformers.models.opt.modeling_opt",
            },
        },
    ],
)
def test_models_that_are_built_alike_are_told_by_their_name(
    settings: dict[str, Any], adapter_on: AdapterOn, tmp_path: Path
) -> None:
    """OPT 350M has the names, the width, the depth and the heads of MusicGen Small."""
    folder = made.reconfigure(adapter_on("mono", "decoder"), tmp_path / "a", **settings)
    refused = refusal(folder, NotAnAdapter)
    assert refused.code == "OTHER_MODEL"
    assert "no MusicGen" in refused.message


@pytest.mark.parametrize(
    "settings",
    [
        {"base_model_name_or_path": "someone/musicgen-opt-jazz"},
        {"base_model_name_or_path": "/home/someone/t5-experiments/out", "auto_mapping": None},
        {"auto_mapping": {"base_model_class": "MyWrapper", "parent_library": "__main__"}},
        {"auto_mapping": None, "task_type": "CAUSAL_LM"},
        {"base_model_name_or_path": "someone/phi-jazz", "auto_mapping": None},
    ],
)
def test_a_musicgen_adapter_is_not_taken_for_another(
    settings: dict[str, Any], adapter_on: AdapterOn, tmp_path: Path
) -> None:
    assert look(made.reconfigure(adapter_on(), tmp_path / "a", **settings)).rank == 4


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"", "WEIGHTS_EMPTY", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "NOT_WEIGHTS", "git lfs pull"),
        (b"<!DOCTYPE html><html>Log in</html>", "NOT_WEIGHTS", "web page"),
        (b"\n  <HTML><body>", "NOT_WEIGHTS", "web page"),
        (b"GGUF\x03\x00\x00\x00", "NOT_WEIGHTS", "GGUF"),
        (b"\x80\x02}q\x00.", "PICKLE_REFUSED", "pickle"),
        (b"hello", "NOT_SAFETENSORS", "not a safetensors file"),
    ],
)
def test_other_content_under_the_weights_name_is_recognised(
    content: bytes, code: str, words: str, adapter_on: AdapterOn, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(adapter_on(), tmp_path / "a"))
    (folder / made.WEIGHTS).write_bytes(content)
    with pytest.raises(AdapterRefused) as refused:
        look(folder)
    assert refused.value.code == code
    assert words in refused.value.message


def test_a_pickle_is_refused_with_the_reason(adapter_on: AdapterOn, tmp_path: Path) -> None:
    folder = made.pickled(adapter_on(), tmp_path / "a")
    (folder / "adapter_model.bin").rename(folder / made.WEIGHTS)
    refused = refusal(folder, NotAnAdapter)
    assert refused.code == "PICKLE_REFUSED"
    assert "can run any program" in refused.message


def test_another_kind_of_adapter_is_named(adapter_on: AdapterOn, tmp_path: Path) -> None:
    refused = refusal(made.reconfigure(adapter_on(), tmp_path / "a", peft_type="IA3"), UnsupportedAdapter)
    assert "IA³" in refused.message


# --- identity ---


def test_identity_is_of_what_decides_the_sound(adapter_on: AdapterOn, tmp_path: Path) -> None:
    first = look(adapter_on()).config
    named = look(made.with_base(adapter_on(), tmp_path / "named", "facebook/musicgen-small")).config
    rescaled = look(made.reconfigure(adapter_on(), tmp_path / "rescaled", lora_alpha=16)).config
    assert identity("a" * 64, first) == identity("a" * 64, named)
    assert identity("a" * 64, first) != identity("a" * 64, rescaled)
    assert identity("a" * 64, first) != identity("b" * 64, first)
    assert len(identity("a" * 64, first)) == 64


def test_reading_needs_no_torch() -> None:
    heavy = {"torch", "peft", "transformers", "safetensors", "django", "numpy"}
    program = (
        "import json, sys, adapters.format.inspection, adapters.format.compatibility, adapters.format.tensors;"
        " print(json.dumps([name for name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert heavy & set(json.loads(done.stdout)) == set()
