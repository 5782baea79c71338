"""Inputs that are hostile or mistaken, built by code: what is posted as a config, and the refusal that it must get.

`TRAP` in a config stands for the name of a module, and of a file, that must never be touched.
"""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.memory.conftest import sample_config

TRAP = "trap_of_the_tests"

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
    "max_position_embeddings": 2048,
}
MIXTRAL: dict[str, Any] = {
    **LLAMA,
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
GPT2: dict[str, Any] = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100}
BERT: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 100,
}
MAMBA: dict[str, Any] = {"model_type": "mamba", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100}
T5: dict[str, Any] = {
    "model_type": "t5",
    "d_model": 64,
    "num_layers": 2,
    "num_heads": 4,
    "d_kv": 16,
    "d_ff": 128,
    "vocab_size": 100,
}
GEMMA: dict[str, Any] = {
    **LLAMA,
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "head_dim": 32,
    "sliding_window": 64,
}


@dataclass(frozen=True)
class Hostile:
    """A text as the config of a submission. `problem` is the code of the first problem found, where there is one."""

    group: str
    name: str
    config: str
    status: int = 400
    code: str = "INVALID_CONFIG"
    problem: str | None = None
    says: str = ""
    as_object: bool = False

    @property
    def body(self) -> str:
        """The request: the config as a text in it, or written into it as it stands."""
        config = self.config if self.as_object else json.dumps(self.config)
        return f'{{"model_uri": "someone/model", "config": {config}}}'


def all_hostile() -> list[Hostile]:
    """Every input, each of another content."""
    found = [
        *_texts(),
        *_syntax(),
        *_other_files(),
        *_extents(),
        *_fields(),
        *_contradictions(),
        *_families(),
    ]
    found += [*_exhausting()]
    assert len({(each.config, each.as_object) for each in found}) == len(found)
    assert len({each.name for each in found}) == len(found)
    return found


def harmless() -> list[tuple[str, dict[str, Any]]]:
    """Valid configs that name code, files and addresses in every place: they count as without them."""
    places: list[tuple[str, dict[str, Any]]] = [
        ("auto-map", {"auto_map": {"AutoConfig": f"{TRAP}.Config", "AutoModelForCausalLM": f"{TRAP}.Model"}}),
        ("auto-map-elsewhere", {"auto_map": {"AutoModelForCausalLM": f"someone/other--{TRAP}.Model"}}),
        ("trust-remote-code", {"trust_remote_code": True, "auto_map": {"AutoModel": f"{TRAP}.Model"}}),
        ("custom-pipelines", {"custom_pipelines": {"text-generation": {"impl": f"{TRAP}.Pipeline"}}}),
        ("dtype-of-a-module", {"torch_dtype": f"{TRAP}.float16"}),
        ("dtype-of-os", {"torch_dtype": "os.system"}),
        ("dtype-of-torch", {"dtype": "torch.load"}),
        ("name-or-path", {"_name_or_path": f"/tmp/{TRAP}"}),
        ("class-name", {"_class_name": f"{TRAP}.Model", "_target_": f"{TRAP}.Model"}),
        (
            "py-object",
            {
                "py/object": f"{TRAP}.Model",
                "__class__": f"{TRAP}.Model",
                "__reduce__": ["os.system", ["true"]],
            },
        ),
        ("tokenizer", {"tokenizer_class": f"{TRAP}.Tokenizer", "tokenizer_file": f"/tmp/{TRAP}"}),
        ("attention-from-the-hub", {"attn_implementation": f"someone/{TRAP}"}),
        ("attention-inside", {"_attn_implementation": f"{TRAP}:function"}),
        ("kernels", {"use_kernels": True, "kernel_config": {"RMSNorm": f"someone/{TRAP}:Norm"}}),
        ("generation", {"generation_config": {"custom_generate": f"someone/{TRAP}"}}),
        ("methods", {"to_dict": TRAP, "get_text_config": "x", "save_pretrained": 1, "validate": TRAP}),
        ("sub-configs", {"sub_configs": {"text_config": TRAP}}),
        ("claims", {"num_parameters": 1, "total_params": 10**30, "memory_bytes": "none"}),
        ("dunders", {"__init__": TRAP, "__dict__": {"hidden_size": 1}, "__module__": TRAP}),
        ("pickle", {"state": base64.b64encode(pickle.dumps({"a": 1})).decode(), "format": "pickle"}),
        (
            "template",
            {"chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}", "note": "${jndi:ldap://a}"},
        ),
        ("html", {"note": "<script>alert(1)</script>", "architectures": ["LlamaForCausalLM", "<b>"]}),
        ("sql", {"_name_or_path": "'; DROP TABLE gated_configs_userconfig; --"}),
        ("nul", {"note": "a\u0000b", "_name_or_path": "\u0000"}),
        ("surrogate", {"note": "\ud800", "\udfff": 1}),
        ("right-to-left", {"note": "\u202egpj.exe", "\u200b": 1}),
        ("proto", {"__proto__": {"hidden_size": 1}, "constructor": {"prototype": 1}}),
    ]
    return [(name, {**LLAMA, **changes}) for name, changes in places]


def _texts() -> Iterator[Hostile]:
    """What people paste instead of a config.json."""
    config = json.dumps(LLAMA, indent=2)
    pickled = base64.b64encode(pickle.dumps(LLAMA)).decode()
    texts = {
        "EMPTY": ["", "   \n\t", "\ufeff", "{}", "{ }"],
        "HTML": [
            "<!DOCTYPE html><html><head><title>Sign in</title></head></html>",
            "<html>\n<body>Access to model is restricted</body></html>",
            f"<div class='json'>{config}</div>",
            "<script>location='/login'</script>",
            "\n\n  <HTML><BODY>502 Bad Gateway</BODY></HTML>",
        ],
        "XML": ["<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "<svg></svg>"],
        "YAML": [
            "model_type: llama\nhidden_size: 4096\n",
            "---\nmodel_type: llama\nlayers: 2\n",
            "!!python/object/apply:os.system ['true']: 1\nmodel_type: llama\n"[46:],
            "# a comment\nhidden_size: 4096\n",
        ],
        "TOML": ["[model]\nhidden_size = 4096\n", "hidden_size = 4096\nlayers = 2\n"],
        "PYTHON": [
            "from transformers import AutoConfig\nconfig = AutoConfig.from_pretrained('a/b')",
            "import os; os.system('true')",
            f"import {TRAP}",
            "class LlamaConfig(PretrainedConfig):\n    pass",
            "def config():\n    return {}",
            "@dataclass\nclass Config: pass",
            'LlamaConfig {\n  "hidden_size": 4096\n}',
            "LlamaConfig(hidden_size=4096)",
            "{'model_type': 'llama', 'hidden_size': 4096}",
            '{"model_type": "llama", "use_cache": True, "hidden_size": 64}',
            '{"model_type": "llama", "pad_token_id": None}',
        ],
        "CODE_FENCE": [f"```json\n{config}\n```", f"```\n{config}```"],
        "MODEL_CARD": ["---\nlicense: llama3\n---\n# Llama", "# Llama 3\n\nA model."],
        "LFS_POINTER": ["version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"],
        "ADDRESS": ["https://huggingface.co/a/b/blob/main/config.json", "http://localhost/config.json"],
        "GGUF": ["GGUF\x03rest", "general.architecture = llama\nllama.block_count = 32"],
        "BINARY": ["\x00\x01\x02", config + "\x00", '{"a": "\x00"}'],
        "NOT_AN_OBJECT": ["[]", f"[{config}]", "null", "1", "-0.5", "true", '"config"', json.dumps(config)],
        "NOT_JSON": [
            "hello",
            pickled,
            "gASVCgAAAAAAAAB9lIwBYZRLAXMu",
            "cos\nsystem\n(S'true'\ntR.",
            "model_type llama",
        ],
    }
    for problem, written in texts.items():
        for number, text in enumerate(written):
            yield Hostile("text", f"{problem.lower()}-{number}", text, problem=problem)


def _syntax() -> Iterator[Hostile]:
    """A config.json with a mistake in its JSON."""
    config = json.dumps(LLAMA)
    broken = {
        "cut-short": config[:-20],
        "cut-in-a-string": config[: config.index("ForCausal")],
        "no-closing-bracket": config[:-1],
        "comma-too-many": config[:-1] + ",}",
        "comma-missing": config.replace(", ", " ", 1),
        "two-objects": config + config,
        "text-after": config + " and so on",
        "line-comment": config.replace("{", "{ // llama\n", 1),
        "block-comment": config.replace("{", "{ /* llama */ ", 1),
        "hash-comment": config.replace("{", "{ # llama\n", 1),
        "single-quotes-inside": config.replace('"llama"', "'llama'"),
        "unquoted-name": config.replace('"model_type"', "model_type"),
        "hex": config.replace("1024", "0x400"),
        "leading-zero": config.replace("1024", "01024"),
        "plus": config.replace("1024", "+1024"),
        "underscore": config.replace("1024", "1_024"),
        "smart-quotes": config.replace('"', "\u201c", 1),
        "raw-line-break": config.replace("llama", "lla\nma", 1),
        "bad-escape": config.replace("llama", "lla\\xma", 1),
        "semicolons": config.replace(", ", "; "),
        "ellipsis": config[:-1] + ", ...}",
        "prompt-before": "$ cat config.json\n" + config,
        "number-before": "1 " + config,
    }
    for name, text in broken.items():
        yield Hostile("syntax", name, text, problem="NOT_JSON")


def _other_files() -> Iterator[Hostile]:
    """JSON files of a repository that are not its config.json."""
    files: dict[str, list[Any]] = {
        "TOKENIZER": [
            {"tokenizer_class": "LlamaTokenizer", "model_max_length": 4096},
            {"added_tokens_decoder": {"0": {"content": "<s>"}}},
            {
                "version": "1.0",
                "truncation": None,
                "normalizer": None,
                "added_tokens": [],
                "model": {"type": "BPE"},
            },
            {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
            {f"token{number}": number for number in range(500)},
            {"chat_template": "{{ messages }}"},
        ],
        "GENERATION": [
            {"do_sample": True, "temperature": 0.6, "top_p": 0.9},
            {
                "_from_model_config": True,
                "bos_token_id": 1,
                "eos_token_id": 2,
                "transformers_version": "4.40.0",
            },
            {"max_new_tokens": 10, "guidance_scale": 3.0},
        ],
        "ADAPTER": [
            {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "base_model_name_or_path": "a/b"},
            {"lora_alpha": 32, "target_modules": ["q_proj"], "r": 8},
        ],
        "INDEX": [
            {"metadata": {"total_size": 1}, "weight_map": {"a": "model-1.safetensors"}},
            {"weight_map": {"a": "pytorch_model.bin"}},
        ],
        "SAFETENSORS": [
            {"__metadata__": {"format": "pt"}, "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
        ],
        "PREPROCESSOR": [
            {"image_processor_type": "CLIPImageProcessor", "crop_size": 224},
            {"feature_extractor_type": "EncodecFeatureExtractor", "sampling_rate": 32000},
            {"processor_class": "LlavaProcessor"},
        ],
        "GGUF": [{"general.architecture": "llama", "llama.block_count": 32}],
        "PIPELINE": [
            {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
        ],
        "HUB_ERROR": [{"error": "Access to model a/b is restricted. You must have access to it."}],
        "HUB_ANSWER": [
            {
                "_id": "1",
                "id": "a/b",
                "modelId": "a/b",
                "siblings": [{"rfilename": "config.json"}],
                "sha": "0",
            }
        ],
        "PARAMS": [{"dim": 4096, "n_layers": 32, "n_heads": 32, "norm_eps": 1e-5, "multiple_of": 256}],
        "TRAINING": [{"log_history": [], "epoch": 1.0}, {"train_batch_size": 8, "zero_optimization": {}}],
        "PACKAGE": [{"name": "studio", "version": "1.0.0", "dependencies": {}}],
        "WRAPPED": [
            {"config": LLAMA},
            {"model_uri": "a/b", "config": LLAMA},
            {"model_config": LLAMA},
            {"data": LLAMA, "status": 200},
            {"config": json.dumps(LLAMA)},
        ],
    }
    for problem, values in files.items():
        for number, value in enumerate(values):
            yield Hostile("file", f"{problem.lower()}-file-{number}", json.dumps(value), problem=problem)


def _extents() -> Iterator[Hostile]:
    """Too deep, too many, too long, twice, not finite: as a text and written into the request."""
    start = '{"model_type": "llama", '
    written = {
        ("TOO_DEEP", "objects"): '{"a":' * 20_000 + "1" + "}" * 20_000,
        ("TOO_DEEP", "lists"): start + '"a":' + "[" * 100_000 + "]" * 100_000 + "}",
        ("TOO_DEEP", "just-too-deep"): start + '"a":' + "[" * 33 + "]" * 33 + "}",
        ("TOO_DEEP", "both"): start + '"a":' + '[{"a":' * 5000 + "1" + "}]" * 5000 + "}",
        ("DUPLICATE_KEY", "outside"): start + '"hidden_size": 64, "hidden_size": 128}',
        ("DUPLICATE_KEY", "inside"): start + '"rope_scaling": {"factor": 1, "factor": 2}}',
        ("DUPLICATE_KEY", "equal"): start + '"model_type": "llama"}',
        ("DUPLICATE_KEY", "escaped"): start + '"\\u006dodel_type": "gpt2"}',
        ("NUMBER_TOO_LONG", "whole"): start + '"hidden_size": ' + "9" * 10_000 + "}",
        ("NUMBER_TOO_LONG", "negative"): start + '"a": -' + "1" * 100_000 + "}",
        ("NOT_FINITE", "nan"): json.dumps({**LLAMA, "hidden_size": float("nan")}),
        ("NOT_FINITE", "infinity"): json.dumps({**LLAMA, "num_hidden_layers": float("inf")}),
        ("NOT_FINITE", "exponent"): json.dumps(LLAMA).replace("1024", "1e999"),
        ("NOT_FINITE", "in-a-part"): json.dumps({**LLAMA, "vision_config": {"hidden_size": float("-inf")}}),
    }
    for (problem, name), config in written.items():
        for as_object in (False, True):
            label = f"{problem.lower()}-{name}{'-object' if as_object else ''}"
            yield Hostile("extent", label, config, problem=problem, as_object=as_object)


def _fields() -> Iterator[Hostile]:
    """Each size of several families with values that no size has."""
    sizes = {
        "llama": (LLAMA, ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"]),
        "llama-more": (LLAMA, ["intermediate_size", "vocab_size", "max_position_embeddings"]),
        "mixtral": (MIXTRAL, ["num_local_experts", "num_experts_per_tok"]),
        "gpt2": (GPT2, ["n_embd", "n_layer", "n_head"]),
        "bert": (BERT, ["hidden_size", "num_hidden_layers"]),
        "mamba": (MAMBA, ["hidden_size", "num_hidden_layers"]),
        "t5": (T5, ["d_model", "num_layers", "d_kv"]),
        "gemma": (GEMMA, ["head_dim", "sliding_window"]),
    }
    values: list[tuple[str, Any, str]] = [
        ("negative", -2, "OUT_OF_RANGE"),
        ("huge", 10**15, "OUT_OF_RANGE"),
        ("beyond-64-bits", 2**80, "OUT_OF_RANGE"),
        ("text", "many", "WRONG_TYPE"),
        ("number-as-text", "64", "WRONG_TYPE"),
        ("truth", True, "WRONG_TYPE"),
        ("fraction", 64.5, "WRONG_TYPE"),
    ]
    for label, (config, fields) in sizes.items():
        for field in fields:
            for name, value, problem in values:
                yield Hostile(
                    "field",
                    f"{label}-{field}-{name}",
                    json.dumps({**config, field: value}),
                    problem=problem,
                    says=field,
                )


def _contradictions() -> Iterator[Hostile]:
    """Sizes that cannot belong to one model."""
    changes: dict[str, dict[str, Any]] = {
        "more-kv-heads-than-heads": {"num_key_value_heads": 16},
        "kv-heads-do-not-divide": {"num_key_value_heads": 3},
        "heads-do-not-divide": {"num_attention_heads": 7, "num_key_value_heads": 7},
        "too-few-layer-types": {"layer_types": ["full_attention"]},
        "no-layer-types": {"layer_types": []},
    }
    for name, change in changes.items():
        yield Hostile("contradiction", name, json.dumps({**LLAMA, **change}), problem="CONTRADICTION")
    yield Hostile(
        "contradiction",
        "more-experts-than-there-are",
        json.dumps({**MIXTRAL, "num_experts_per_tok": 8}),
        problem="CONTRADICTION",
    )
    musicgen = sample_config("musicgen-small")
    musicgen["decoder"] = {**musicgen["decoder"], "num_attention_heads": 15}
    yield Hostile("contradiction", "in-a-part", json.dumps(musicgen), problem="CONTRADICTION", says="decoder")


def _families() -> Iterator[Hostile]:
    """Fields that are missing, and families that nobody knows or that name something else."""
    for name, config in (("llama", LLAMA), ("gpt2", GPT2), ("bert", BERT), ("mamba", MAMBA), ("t5", T5)):
        yield Hostile(
            "missing",
            f"{name}-alone",
            json.dumps({"model_type": config["model_type"]}),
            problem="MISSING_FIELDS",
        )
    for part in ("text_encoder", "audio_encoder", "decoder"):
        musicgen = sample_config("musicgen-small")
        del musicgen[part]
        yield Hostile(
            "missing", f"musicgen-{part}", json.dumps(musicgen), problem="MISSING_FIELDS", says=part
        )
    for name, value in {
        "null": None,
        "number": 7,
        "list": ["llama"],
        "object": {"a": 1},
        "empty": "",
    }.items():
        written = json.dumps({**LLAMA, "model_type": value, "architectures": ["Nothing"]})
        yield Hostile("family", f"type-{name}", written, problem="NO_MODEL_TYPE")
    names = {
        "nobody-knows-it": "nobody-knows-it",
        "misspelt": "lama",
        "path": "../../../../etc/passwd",
        "module": f"{TRAP}.Model",
        "os": "os.system",
        "class": "LlamaForCausalLM",
        "builtins": "__builtins__",
        "auto": "auto",
        "dots": "..",
        "format": "{0.__class__}",
        "long": "x" * 100_000,
        "nul": "llama\u0000",
        "cyrillic": "ll\u0430ma",
        "line-break": "llama\nx",
    }
    for name, family in names.items():
        written = json.dumps({**LLAMA, "model_type": family, "architectures": [f"{TRAP}.Model"]})
        yield Hostile("family", f"named-{name}", written, 422, "UNSUPPORTED_ARCHITECTURE")


def _exhausting() -> Iterator[Hostile]:
    """Made to take all time or memory. What is out of range is told before anything is built."""
    largest = {"hidden_size": 262_144, "num_hidden_layers": 1024, "intermediate_size": 4_194_304}
    refused: dict[str, dict[str, Any]] = {
        "a-million-layers": {**LLAMA, "num_hidden_layers": 10**6},
        "layers-of-a-part": {**LLAMA, "vision_config": {"num_hidden_layers": 10**7}},
        "everything-largest": {**LLAMA, **largest},
        "a-million-experts": {**MIXTRAL, "num_local_experts": 10**6},
        "a-million-layer-types": {**LLAMA, "layer_types": ["full_attention"] * 100_000},
        "block-configs": {
            **LLAMA,
            "model_type": "nemotron-nas",
            "block_configs": [{"attention": {"n_heads_in_group": 4}, "ffn": {"ffn_mult": 1.0}}] * 20_000,
        },
        "codec-filters": {**sample_config("encodec-24khz"), "num_filters": 10**9},
        "labels": {**LLAMA, "num_labels": 10**12},
        "positions": {**LLAMA, "max_position_embeddings": 10**18},
        "vocabulary": {**LLAMA, "vocab_size": 10**14},
        "nested-parts": {**LLAMA, "text_config": {"text_config": {"num_hidden_layers": 10**8}}},
    }
    for name, config in refused.items():
        yield Hostile("exhausting", name, json.dumps(config), problem="OUT_OF_RANGE")
    aliased = json.dumps({**LLAMA, "attribute_map": {"hidden_size": TRAP}})
    yield Hostile("exhausting", "attribute-map", aliased, problem="WRONG_TYPE", says="attribute_map")
    many = {f"field{number:06}": number for number in range(180_000)}
    yield Hostile(
        "exhausting", "four-megabytes-of-fields", json.dumps({**LLAMA, **many}), problem="TOO_MANY_KEYS"
    )
    yield Hostile(
        "exhausting",
        "four-megabytes-of-entries",
        json.dumps({**LLAMA, "a": [[]] * 900_000}, separators=(",", ":")),
        problem="TOO_MANY_KEYS",
    )
    blanks = " " * 3_000_000
    yield Hostile("exhausting", "blanks-before-nothing", blanks + "x", problem="NOT_JSON")
    yield Hostile("exhausting", "comments-before-nothing", "#\n" * 1_500_000, problem="NOT_JSON")
    yield Hostile("exhausting", "names-without-an-end", "a" * 3_000_000, problem="NOT_JSON")
    yield Hostile("exhausting", "dashes", "---\n" * 900_000, problem="MODEL_CARD")
    yield Hostile("exhausting", "quotes", '"' * 1_500_000, problem="NOT_JSON")
    yield Hostile("exhausting", "escapes", '{"a": "' + "\\" * 1_999_999 + '"}', problem="NOT_JSON")
    yield Hostile("exhausting", "brackets", "[" * 3_000_000, problem="TOO_DEEP")
    yield Hostile("exhausting", "one-long-number", "9" * 3_000_000, problem="NUMBER_TOO_LONG")


def too_long_to_compute() -> list[tuple[str, dict[str, Any]]]:
    """Within every range, and yet nothing that is built in the time that a calculation has."""
    return [
        ("widest-llama", {**LLAMA, "num_hidden_layers": 1024, "vocab_size": 16_777_216}),
        ("most-experts", {**MIXTRAL, "num_hidden_layers": 1024, "num_local_experts": 8192}),
        ("most-mamba", {**MAMBA, "num_hidden_layers": 1024, "state_size": 65_536}),
        ("most-t5", {**T5, "num_layers": 1024, "num_decoder_layers": 1024}),
        ("deep-gemma", {**GEMMA, "num_hidden_layers": 1024}),
        ("swin", {"model_type": "swin", "embed_dim": 96, "depths": [1024] * 64, "num_heads": [3] * 64}),
        ("resnet", {"model_type": "resnet", "hidden_sizes": [65_536] * 64, "depths": [1024] * 64}),
        ("encodec", {"model_type": "encodec", "upsampling_ratios": [1] * 4096, "num_residual_layers": 1024}),
        ("labels", {**BERT, "architectures": ["BertForSequenceClassification"], "num_labels": 16_777_216}),
        ("id2label", {**BERT, "id2label": {str(number): "x" for number in range(200_000)}}),
        ("pruned-heads", {**BERT, "pruned_heads": {str(n): list(range(4)) for n in range(2)}}),
        ("long-strings", {**LLAMA, "hidden_act": "a" * 2_000_000}),
    ]


HOSTILE_IDS = [
    "",
    " ",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b/c",
    "a//b",
    "/a",
    "a/..",
    "./a",
    "a/b\u0000",
    "a/b c",
    "a/b%2f..%2f",
    "a\\b",
    "file:///etc/passwd",
    "ftp://huggingface.co/a/b",
    "javascript:alert(1)",
    "https://example.com/a/b",
    "https://huggingface.co@evil.example/a/b",
    "https://huggingface.co.evil.example/a/b",
    "https://huggingface.co:444/a/b",
    "http://169.254.169.254/latest/meta-data",
    "http://127.0.0.1:1/a/b",
    "https://huggingface.co/datasets/a/b",
    "spaces/a/b",
    "https://huggingface.co/",
    "https://huggingface.co/a/b/resolve/refs%2Fpr%2F1/config.json",
    "api/models",
    "facebook/musicgen-sm\u0430ll",
    "a" * 97 + "/b",
    "a/" + "b" * 97,
    "x" * 100_000,
    "-a/b",
    "a/b.git",
    "a--b/c",
    "<script>/a",
    "'; DROP TABLE x; --",
    "{0.__class__}/a",
    "~/model",
]
