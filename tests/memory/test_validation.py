"""Texts that are no config.json, or one that cannot be: each is refused with its own sentence, and quickly."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gated_configs.memory import InvalidConfig, UnsupportedArchitecture, check_config, read_config
from tests.memory.conftest import sample_config
from tests.memory.samples import Sample, all_samples

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}

TEXTS = [
    ("EMPTY", ""),
    ("EMPTY", "  \n\t "),
    ("EMPTY", "{}"),
    ("HTML", "<!DOCTYPE html><html><body>Access to this model is restricted</body></html>"),
    ("HTML", "<html lang='en'><head>"),
    ("XML", "<?xml version='1.0'?><a/>"),
    ("LFS_POINTER", "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12"),
    ("CODE_FENCE", "```json\n{}\n```"),
    ("PYTHON", "{'model_type': 'llama'}"),
    ("PYTHON", '{"tie_word_embeddings": True, "model_type": "llama"}'),
    ("PYTHON", 'LlamaConfig {\n  "hidden_size": 4096\n}'),
    ("PYTHON", "from transformers import LlamaConfig\nconfig = LlamaConfig()"),
    ("PYTHON", "class Model(nn.Module):\n    pass"),
    ("PYTHON", "import os\nos.system('true')"),
    ("YAML", "model_type: llama\nhidden_size: 4096\n"),
    ("YAML", "---\nmodel: llama\n"),
    ("MODEL_CARD", "---\nlicense: mit\n---\n\n# My model\n"),
    ("MODEL_CARD", "# Llama\n\nText."),
    ("GGUF", "GGUF\x03"),
    ("GGUF", "general.architecture str = llama\nllama.block_count u32 = 32"),
    ("TOML", "[model]\nhidden_size = 4096\n"),
    ("ADDRESS", "https://huggingface.co/meta-llama/Llama-3.1-8B"),
    ("NOT_AN_OBJECT", "[1, 2, 3]"),
    ("NOT_AN_OBJECT", "null"),
    ("NOT_AN_OBJECT", "12"),
    ("NOT_AN_OBJECT", '"text"'),
    ("NOT_AN_OBJECT", "true"),
    ("NOT_JSON", '{"model_type": "llama",}'),
    ("NOT_JSON", '{"model_type": "llama"'),
    ("NOT_JSON", '{"model_type": "llama"} {"b": 1}'),
    ("NOT_JSON", '{"model_type": "llama" // why\n}'),
    ("DUPLICATE_KEY", '{"model_type": "llama", "hidden_size": 64, "hidden_size": 128}'),
    ("NUMBER_TOO_LONG", '{"model_type": "llama", "hidden_size": ' + "9" * 5000 + "}"),
    ("TOO_DEEP", '{"a":' * 5000 + "1" + "}" * 5000),
    ("TOO_DEEP", '{"model_type": "llama", "a":' + "[" * 100 + "]" * 100 + "}"),
    ("BINARY", "{\x00}"),
    ("NO_MODEL_TYPE", '{"hidden_size": 4096, "num_hidden_layers": 2}'),
    (
        "TOKENIZER",
        json.dumps({"tokenizer_class": "LlamaTokenizer", "model_max_length": 4096, "bos_token": "<s>"}),
    ),
    (
        "TOKENIZER",
        json.dumps({"version": "1.0", "added_tokens": [], "normalizer": None, "model": {"type": "BPE"}}),
    ),
    ("TOKENIZER", json.dumps({"bos_token": "<s>", "eos_token": "</s>"})),
    ("TOKENIZER", json.dumps({f"t{n}": n for n in range(60)})),
    (
        "GENERATION",
        json.dumps({"do_sample": True, "temperature": 0.6, "top_p": 0.9, "transformers_version": "4.40"}),
    ),
    ("GENERATION", json.dumps({"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2})),
    (
        "ADAPTER",
        json.dumps({"peft_type": "LORA", "r": 16, "lora_alpha": 32, "base_model_name_or_path": "a/b"}),
    ),
    ("INDEX", json.dumps({"metadata": {"total_size": 1}, "weight_map": {"a": "b.safetensors"}})),
    (
        "SAFETENSORS",
        json.dumps({"__metadata__": {"format": "pt"}, "w": {"dtype": "F32", "data_offsets": [0, 4]}}),
    ),
    ("PREPROCESSOR", json.dumps({"image_processor_type": "CLIPImageProcessor", "crop_size": 224})),
    (
        "PREPROCESSOR",
        json.dumps({"feature_extractor_type": "EncodecFeatureExtractor", "sampling_rate": 32000}),
    ),
    ("GGUF", json.dumps({"general.architecture": "llama", "llama.block_count": 32})),
    ("WRAPPED", json.dumps({"config": LLAMA})),
    ("WRAPPED", json.dumps({"model_id": "a/b", "config": LLAMA})),
    (
        "PIPELINE",
        json.dumps({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}),
    ),
    ("HUB_ERROR", json.dumps({"error": "Access to model meta-llama/x is restricted."})),
    ("PARAMS", json.dumps({"dim": 4096, "n_layers": 32, "n_heads": 32, "norm_eps": 1e-5})),
    ("TRAINING", json.dumps({"log_history": [], "epoch": 1.0})),
    ("MISSING_FIELDS", json.dumps({"model_type": "llama"})),
    ("MISSING_FIELDS", json.dumps({"model_type": "gpt2", "n_embd": 768})),
    ("MISSING_FIELDS", json.dumps({"model_type": "musicgen", "decoder": {}})),
]


@pytest.mark.parametrize(("code", "text"), TEXTS, ids=range(len(TEXTS)))
def test_names_what_the_text_is(code: str, text: str) -> None:
    started = time.perf_counter()
    with pytest.raises(InvalidConfig) as caught:
        read_config(text)
    assert [problem.code for problem in caught.value.problems] == [code]
    assert str(caught.value).endswith(".")
    assert time.perf_counter() - started < 2


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("OUT_OF_RANGE", {"num_hidden_layers": 10**9}),
    ("OUT_OF_RANGE", {"num_hidden_layers": -1}),
    ("OUT_OF_RANGE", {"hidden_size": 0}),
    ("OUT_OF_RANGE", {"hidden_size": 10**12, "num_attention_heads": 1}),
    ("OUT_OF_RANGE", {"vocab_size": 10**12}),
    ("OUT_OF_RANGE", {"intermediate_size": 10**10}),
    ("OUT_OF_RANGE", {"num_local_experts": 10**6}),
    ("OUT_OF_RANGE", {"max_position_embeddings": 10**15}),
    ("OUT_OF_RANGE", {"hidden_size": 262144, "num_hidden_layers": 1024, "intermediate_size": 4194304}),
    ("WRONG_TYPE", {"hidden_size": "4096"}),
    ("WRONG_TYPE", {"hidden_size": 4096.5}),
    ("WRONG_TYPE", {"num_attention_heads": True}),
    ("CONTRADICTION", {"num_key_value_heads": 64}),
    ("CONTRADICTION", {"num_key_value_heads": 5}),
    ("CONTRADICTION", {"num_attention_heads": 30, "num_key_value_heads": 30}),
    ("CONTRADICTION", {"num_local_experts": 4, "num_experts_per_tok": 8}),
    ("CONTRADICTION", {"layer_types": ["full_attention"] * 3}),
]


@pytest.mark.parametrize(("code", "changes"), CHANGES, ids=range(len(CHANGES)))
def test_checks_ranges_and_contradictions(code: str, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig) as caught:
        check_config({**LLAMA, **changes})
    assert code in {problem.code for problem in caught.value.problems}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_only_sizes_must_be_finite(number: str) -> None:
    text = json.dumps(LLAMA)[:-1]
    with pytest.raises(InvalidConfig, match="must be a number"):
        read_config(text.replace('"hidden_size": 4096', f'"hidden_size": {number}') + "}")
    assert read_config(f'{text}, "initializer_range": {number}}}').family == "llama"


def test_reads_up_to_the_limit_and_no_further() -> None:
    padding = {"id2label": {str(n): "x" * 60 for n in range(40_000)}}
    assert read_config(json.dumps({**LLAMA, **padding})).family == "llama"
    with pytest.raises(InvalidConfig, match="bytes"):
        read_config(json.dumps(LLAMA) + " " * (4 << 20))


def test_ignores_a_byte_order_mark_and_claims() -> None:
    config = {**LLAMA, "num_parameters": 5}
    assert read_config("\ufeff" + json.dumps(config)).family == "llama"
    assert read_config(json.dumps(config).encode("utf-8-sig")).family == "llama"


def test_tells_the_family_from_the_class() -> None:
    config = {key: value for key, value in LLAMA.items() if key != "model_type"}
    assert check_config(config).family == "llama"


def test_refuses_unknown_families_with_the_reason() -> None:
    with pytest.raises(UnsupportedArchitecture, match="never"):
        check_config({**LLAMA, "model_type": "not-a-family"})
    with pytest.raises(UnsupportedArchitecture, match="'llama'"):
        check_config({**LLAMA, "model_type": "llamma"})


def test_says_what_a_family_needs() -> None:
    with pytest.raises(InvalidConfig) as caught:
        check_config({"model_type": "gpt2", "n_embd": 768})
    assert caught.value.required_fields == ("model_type", "n_embd", "n_layer", "n_head")
    assert caught.value.missing_fields == ("n_layer", "n_head")


@pytest.mark.parametrize("sample", all_samples(), ids=lambda sample: sample.model_id)
def test_accepts_every_real_config(sample: Sample) -> None:
    assert read_config(json.dumps(sample.config, indent=1)).config["model_type"]


def test_imports_neither_torch_nor_transformers() -> None:
    import subprocess

    code = (
        "import sys, json; from gated_configs.memory import read_config, estimate, describe;"
        f"read_config({json.dumps(json.dumps(LLAMA))});"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'django')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=20), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(LLAMA)), JSON, st.booleans())
def test_any_value_in_any_field_is_accepted_or_refused_with_a_sentence(
    name: str, value: Any, drop: bool
) -> None:
    config = {**LLAMA, name: value}
    if drop:
        config = {key: item for key, item in config.items() if key != name}
    with contextlib.suppress(InvalidConfig, UnsupportedArchitecture):
        check_config(config)


@settings(max_examples=150, deadline=2000)
@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_text_is_accepted_or_refused_with_a_sentence(text: str | bytes) -> None:
    with pytest.raises((InvalidConfig, UnsupportedArchitecture)) as caught:
        read_config(text)
    assert str(caught.value)


def test_a_chatglm_config_may_carry_leftovers_of_another_family() -> None:
    assert check_config(sample_config("glm-4-9b-chat")).family == "chatglm"
