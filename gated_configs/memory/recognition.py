"""What a pasted text is when it is no config.json, so that the refusal can name it.

Text and parsed JSON in, a sentence out. Nothing is imported, run or looked up.
"""

from __future__ import annotations

import re
from typing import Any, Final

from gated_configs.memory.errors import Problem

_NEXT_STEP: Final = "Paste the file named config.json from the model's repository."
_SHAPE_FIELDS: Final = {
    "hidden_size",
    "num_hidden_layers",
    "n_layer",
    "n_embd",
    "d_model",
    "num_layers",
    "architectures",
    "model_type",
    "text_config",
    "vision_config",
    "decoder",
    "audio_encoder",
    "block_configs",
}
_GENERATION: Final = {
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "max_new_tokens",
    "max_length",
    "num_beams",
    "repetition_penalty",
    "_from_model_config",
    "eos_token_id",
    "bos_token_id",
    "pad_token_id",
    "transformers_version",
    "guidance_scale",
    "decoder_start_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_decoder_ids",
    "return_timestamps",
    "no_timestamps_token_id",
    "alignment_heads",
    "lang_to_id",
    "task_to_id",
    "is_multilingual",
    "max_initial_timestamp_index",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "early_stopping",
    "length_penalty",
    "min_length",
    "use_cache",
    "no_repeat_ngram_size",
    "prev_sot_token_id",
    "cache_implementation",
    "trust_remote_code",
    "chat_format",
    "min_new_tokens",
    "max_window_size",
    "stop_words_ids",
}
_SPECIAL_TOKENS: Final = {
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
    "additional_special_tokens",
}


def recognise_text(text: str) -> Problem | None:
    """What a text that is no JSON object looks like, judged by its first lines; None when nothing fits."""
    start = text.lstrip("\ufeff \t\r\n")[:4000]
    lowered = start.lower()
    if not start:
        return _problem("EMPTY", "There is no text.")
    if start.startswith("GGUF"):
        return _problem("GGUF", "This is the start of a GGUF file, not a config.json.")
    if (
        lowered.startswith(("<!doctype html", "<html", "<head", "<body", "<div", "<script"))
        or "<html" in lowered[:1000]
    ):
        return _problem("HTML", 'This is an HTML page. On the hub, open the file and use its "raw" view.')
    if start.startswith("<"):
        return _problem("XML", "This is XML or HTML, not a config.json.")
    if lowered.startswith("version https://git-lfs"):
        return _problem("LFS_POINTER", "This is a pointer of Git LFS, not the file it points to.")
    if start.startswith("```"):
        return _problem(
            "CODE_FENCE", "The text is fenced with ```. Paste only what stands between the fences."
        )
    if start.startswith("{"):
        if re.match(r"\{\s*'", start) or re.search(r":\s*(True|False|None)\b", start):
            return _problem(
                "PYTHON",
                "This is a Python dictionary, not JSON: JSON has double quotes, true, false and null.",
            )
        return None
    if re.match(r"[A-Z]\w*Config\s*[({]", start):
        return _problem(
            "PYTHON", "This is how Python prints a config, with its class before it, not a config.json."
        )
    if re.search(r"^\s*(import \w|from [\w.]+ import |class \w+[(:]|def \w+\(|@\w+)", start, re.MULTILINE):
        return _problem("PYTHON", "This is Python code. Nothing in it is run; it is not a config.json.")
    if re.search(r"general\.architecture|\.block_count|\.embedding_length", lowered):
        return _problem("GGUF", "These are the fields of a GGUF file, not a config.json.")
    if start.startswith("---") or re.match(r"(?:#[^\n]*\n)*[\w\"'.-]+:(?:\s|$)", start):
        if re.match(r"---\n(?:.*\n)*?---\s*\n", start):
            return _problem("MODEL_CARD", "This is a model card (README.md), not a config.json.")
        return _problem("YAML", "This is YAML, not JSON.")
    if re.match(r"\[\s*[\w. \"-]+\]\s*\n[\w.-]+\s*=", start) or re.match(r"[\w.-]+\s*=\s*\S", start):
        return _problem("TOML", "This is TOML or an INI file, not JSON.")
    if re.match(r"https?://", lowered):
        return _problem("ADDRESS", "This is an address. Paste the text of the config.json that stands there.")
    if start.startswith("# "):
        return _problem("MODEL_CARD", "This is Markdown, not a config.json.")
    return None


def recognise_json(value: Any) -> Problem | None:
    """What a JSON value is when it is no model's config; None for anything that may be one."""
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(
            type(value), "a number"
        )
        return _problem("NOT_AN_OBJECT", f"This is {kind}; a config.json is an object in braces.")
    if not value:
        return _problem("EMPTY", "The object is empty.")
    keys = set(value)
    if keys & {"model_type", "architectures"} and not ({"peft_type", "weight_map"} & keys):
        return None
    return _wrapped(value, keys) or _other_file(value, keys)


def _wrapped(value: dict[str, Any], keys: set[str]) -> Problem | None:
    for name in ("config", "model_config", "model", "data", "transformer_config"):
        inner = value.get(name)
        if (
            isinstance(inner, dict)
            and _SHAPE_FIELDS & set(inner)
            and not (_SHAPE_FIELDS - {"model_type"}) & keys
        ):
            return Problem(
                "WRAPPED",
                f'The config stands inside {{"{name}": ...}}. Paste only the inner object.',
                name,
            )
        if isinstance(inner, str) and inner.lstrip().startswith("{") and len(keys) <= 3:
            return Problem(
                "WRAPPED", f'The config stands as a text inside "{name}". Paste only that text.', name
            )
    return None


def _other_file(value: dict[str, Any], keys: set[str]) -> Problem | None:
    for code, sentence, test in _FILES:
        if test(value, keys):
            return _problem(code, sentence)
    return None


def _is_index(value: dict[str, Any], keys: set[str]) -> bool:
    return "weight_map" in keys


def _is_adapter(value: dict[str, Any], keys: set[str]) -> bool:
    return "peft_type" in keys or {"lora_alpha", "target_modules"} <= keys


def _is_tokenizer(value: dict[str, Any], keys: set[str]) -> bool:
    return (
        ("tokenizer_class" in keys and not keys & {"hidden_size", "d_model", "n_embd"})
        or "added_tokens_decoder" in keys
        or "chat_template" in keys
        or ({"added_tokens", "normalizer"} <= keys)
        or ({"model_max_length", "do_lower_case"} <= keys)
    )


def _is_special_tokens(value: dict[str, Any], keys: set[str]) -> bool:
    return keys <= _SPECIAL_TOKENS


def _is_vocabulary(value: dict[str, Any], keys: set[str]) -> bool:
    return len(keys) >= 50 and all(type(item) is int for item in value.values())


def _is_preprocessor(value: dict[str, Any], keys: set[str]) -> bool:
    return bool(
        keys & {"image_processor_type", "feature_extractor_type", "processor_class", "video_processor_type"}
        or {"image_mean", "image_std"} <= keys
        or {"feature_size", "sampling_rate", "padding_value"} <= keys
    )


def _is_generation(value: dict[str, Any], keys: set[str]) -> bool:
    return bool(keys & (_GENERATION - {"transformers_version", "use_cache"})) and keys <= _GENERATION


def _is_gguf(value: dict[str, Any], keys: set[str]) -> bool:
    return any(
        key.startswith("general.") or key.endswith((".block_count", ".embedding_length")) for key in keys
    )


def _is_safetensors(value: dict[str, Any], keys: set[str]) -> bool:
    items = [item for key, item in value.items() if key != "__metadata__"]
    return "__metadata__" in keys or any(isinstance(item, dict) and "data_offsets" in item for item in items)


def _is_pipeline(value: dict[str, Any], keys: set[str]) -> bool:
    return "_class_name" in keys and any(isinstance(item, list) and len(item) == 2 for item in value.values())


def _is_hub_error(value: dict[str, Any], keys: set[str]) -> bool:
    return isinstance(value.get("error"), str) and len(keys) <= 4


def _is_hub_model(value: dict[str, Any], keys: set[str]) -> bool:
    return {"siblings", "sha"} <= keys or {"modelId", "tags"} <= keys


def _is_params(value: dict[str, Any], keys: set[str]) -> bool:
    return {"dim", "n_layers", "n_heads"} <= keys


def _is_training(value: dict[str, Any], keys: set[str]) -> bool:
    return bool(
        keys & {"log_history", "train_batch_size", "zero_optimization", "per_device_train_batch_size"}
    )


def _is_package(value: dict[str, Any], keys: set[str]) -> bool:
    return {"name", "version"} <= keys and bool(keys & {"dependencies", "scripts", "devDependencies"})


_FILES: Final = (
    ("INDEX", "This is an index of weight files (model.safetensors.index.json).", _is_index),
    (
        "ADAPTER",
        "This is an adapter_config.json: it describes a LoRA adapter, not the model below it.",
        _is_adapter,
    ),
    ("SAFETENSORS", "This is the header of a safetensors file.", _is_safetensors),
    ("PREPROCESSOR", "This is a preprocessor_config.json or processor_config.json.", _is_preprocessor),
    ("TOKENIZER", "This is a tokenizer's file (tokenizer_config.json or tokenizer.json).", _is_tokenizer),
    ("TOKENIZER", "This is a special_tokens_map.json of a tokenizer.", _is_special_tokens),
    ("TOKENIZER", "This is a tokenizer's vocabulary.", _is_vocabulary),
    ("GENERATION", "This is a generation_config.json: how to sample, not the model's shape.", _is_generation),
    ("GGUF", "These are the fields of a GGUF file.", _is_gguf),
    (
        "PIPELINE",
        "This is the model_index.json of a diffusers pipeline; its parts have configs of their own.",
        _is_pipeline,
    ),
    ("HUB_ERROR", "This is an error message of the hub, not a file.", _is_hub_error),
    ("HUB_ANSWER", "This is the hub's description of a repository, not its config.json.", _is_hub_model),
    ("PARAMS", "This is a params.json in Meta's or Mistral's own format.", _is_params),
    ("TRAINING", "This is a file of a training run.", _is_training),
    ("PACKAGE", "This is a package.json.", _is_package),
)


def _problem(code: str, sentence: str) -> Problem:
    return Problem(code, sentence if sentence.endswith(("view.", "fences.")) else f"{sentence} {_NEXT_STEP}")
