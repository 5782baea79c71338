"""Reads an adapter's config: what decides how its tensors act, within bounds, and nothing else of it.

Names the kinds of adapters that the engine cannot do. Knows nothing of peft itself.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, Final

from adapters.format.errors import BrokenAdapter, NotAnAdapter, UnsupportedAdapter

MAX_CONFIG_BYTES: Final = 1024 * 1024
MAX_RANK: Final = 65_536
_MAX_ITEMS: Final = 20_000
_MAX_TEXT: Final = 2_000

#: Methods of peft that are not LoRA, as people call them.
_OTHER_METHODS: Final = {
    "ADALORA": "AdaLoRA",
    "IA3": "IA³",
    "LOHA": "LoHa",
    "LOKR": "LoKr",
    "OFT": "OFT",
    "BOFT": "BOFT",
    "VERA": "VeRA",
    "PREFIX_TUNING": "Prefix-tuning",
    "P_TUNING": "P-tuning",
    "PROMPT_TUNING": "Prompt-tuning",
    "XLORA": "X-LoRA",
}

#: Settings of LoRA's variants that change what the tensors mean: each with the variant's name.
_VARIANTS_REFUSED: Final = {
    "use_qalora": "QA-LoRA",
    "lora_bias": "LoRA with biases",
    "layer_replication": "LoRA with replicated layers",
    "alora_invocation_tokens": "Activated LoRA (aLoRA)",
    "megatron_config": "LoRA for Megatron",
    "trainable_token_indices": "LoRA with single trained tokens",
    "target_parameters": "LoRA on bare parameters",
    "use_bdlora": "Block-diagonal LoRA (BD-LoRA)",
    "arrow_config": "LoRA with Arrow routing",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
}
#: Ways to begin training that change the base model too: the tensors alone do not hold what was learned.
_INITS_REFUSED: Final = (
    ("pissa", "PiSSA"),
    ("olora", "OLoRA"),
    ("corda", "CorDA"),
    ("loftq", "LoftQ"),
    ("lora_ga", "LoRA-GA"),
)
#: Settings that are read, those that say nothing about the result, and those refused above. Others are noted.
KNOWN_SETTINGS: Final = frozenset(
    {
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_dora",
        "use_rslora",
        *_VARIANTS_REFUSED,
    }
)


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter's config tells, checked. Names of modules are as training wrote them.

    `target_modules` and `exclude_modules` are names, or one regular expression. `base_model_name`,
    `base_model_class` and `base_library` are empty where the config does not tell. `unknown_settings` names what was left out.
    """

    r: int
    lora_alpha: float
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    modules_to_save: tuple[str, ...] = ()
    target_modules: tuple[str, ...] | str = ()
    exclude_modules: tuple[str, ...] | str = ()
    layers_to_transform: tuple[int, ...] = ()
    layers_pattern: tuple[str, ...] = ()
    base_model_name: str = ""
    base_model_class: str = ""
    base_library: str = ""
    task_type: str = ""
    revision: str = ""
    bias: str = "none"
    unknown_settings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """What decides how the tensors act, as JSON holds it: the part that belongs to the adapter's identity."""

        def plain(names: tuple[str, ...] | str) -> list[str] | str:
            return names if isinstance(names, str) else list(names)

        return {
            "peft_type": "LORA",
            "r": self.r,
            "lora_alpha": self.lora_alpha,
            "use_rslora": self.use_rslora,
            "use_dora": self.use_dora,
            # Pairs, since databases reorder tables, and of two patterns that match a module the first counts.
            "rank_pattern": [list(pair) for pair in self.rank_pattern.items()],
            "alpha_pattern": [list(pair) for pair in self.alpha_pattern.items()],
            "modules_to_save": list(self.modules_to_save),
            "target_modules": plain(self.target_modules),
            "exclude_modules": plain(self.exclude_modules),
            "layers_to_transform": list(self.layers_to_transform),
            "layers_pattern": list(self.layers_pattern),
        }

    def canonical(self) -> str:
        """`as_dict` as one line of JSON: equal for equal adapters, and readable by `parse_config`."""
        return json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    def rank_of(self, trained_module: str) -> int:
        """The rank that a module has by the config; the module's name as training saw it."""
        pattern = _matching(self.rank_pattern, trained_module)
        return self.rank_pattern[pattern] if pattern is not None else self.r

    def alpha_of(self, trained_module: str) -> float:
        """The alpha that a module has; the module's name as training saw it."""
        pattern = _matching(self.alpha_pattern, trained_module)
        return self.alpha_pattern[pattern] if pattern is not None else self.lora_alpha

    def scale_of(self, trained_module: str) -> float:
        """What the product of the two matrices is multiplied with at strength 1."""
        rank = self.rank_of(trained_module)
        return self.alpha_of(trained_module) / (math.sqrt(rank) if self.use_rslora else rank)

    @property
    def variants(self) -> list[str]:
        """What it has beyond plain LoRA, in the field's words. Saved modules and heads are seen in its tensors."""
        return [
            name
            for name, is_there in (
                ("rsLoRA", self.use_rslora),
                ("DoRA", self.use_dora),
                ("rank pattern", bool(self.rank_pattern)),
                ("alpha pattern", bool(self.alpha_pattern)),
            )
            if is_there
        ]


def parse_config(content: bytes | str) -> AdapterConfig:
    """Read the text of an `adapter_config.json`, or what `AdapterConfig.canonical` wrote.

    Raises NotAnAdapter for what is no adapter's config, UnsupportedAdapter for a kind that the engine cannot do,
    BrokenAdapter for values outside all bounds.
    """
    table = _read(content)
    method = table.get("peft_type")
    if not isinstance(method, str):
        raise _no_config("it names no peft_type")
    if method != "LORA":
        name = _OTHER_METHODS.get(method, _short(method))
        raise UnsupportedAdapter(
            "ADAPTER_KIND_UNSUPPORTED",
            f"This is an adapter of the kind {name}. Only LoRA adapters can be used; train one with LoraConfig.",
            f"peft_type {_short(method)}",
            kind=name,
        )
    _refuse_variants(table)
    mapping = _table(table, "auto_mapping")
    return AdapterConfig(
        r=_rank(table, "r", 8),
        lora_alpha=_number(table.get("lora_alpha", 8), "lora_alpha"),
        use_rslora=_flag(table, "use_rslora"),
        use_dora=_flag(table, "use_dora"),
        rank_pattern={
            _pattern(name, "rank_pattern"): _rank({"rank_pattern": value}, "rank_pattern", 0)
            for name, value in _table(table, "rank_pattern").items()
        },
        alpha_pattern={
            _pattern(name, "alpha_pattern"): _number(value, "alpha_pattern")
            for name, value in _table(table, "alpha_pattern").items()
        },
        modules_to_save=_names(table, "modules_to_save"),
        target_modules=_names_or_pattern(table, "target_modules"),
        exclude_modules=_names_or_pattern(table, "exclude_modules"),
        layers_to_transform=_layers(table),
        layers_pattern=_one_or_more(table, "layers_pattern"),
        base_model_name=_text(table, "base_model_name_or_path"),
        base_model_class=_text(mapping, "base_model_class"),
        base_library=_text(mapping, "parent_library"),
        task_type=_text(table, "task_type"),
        revision=_text(table, "revision"),
        bias=_text(table, "bias") or "none",
        unknown_settings=tuple(
            sorted(_short(name, 60) for name, value in table.items() if name not in KNOWN_SETTINGS and value)
        )[:20],
    )


def _read(content: bytes | str) -> dict[str, Any]:
    if len(content) > MAX_CONFIG_BYTES:
        raise _no_config(f"it has {len(content)} bytes")
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        table = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, BrokenAdapter):
            raise
        raise _no_config(f"it is no JSON: {error}"[:200]) from error
    if not isinstance(table, dict):
        raise _no_config("it is no JSON object")
    return table


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise _bad("something", "is there twice")
    return table


def _refuse_variants(table: dict[str, Any]) -> None:
    """Refuse by name what would act otherwise here than where it was trained."""
    found = [name for setting, name in _VARIANTS_REFUSED.items() if table.get(setting)]
    if found:
        raise UnsupportedAdapter(
            "ADAPTER_KIND_UNSUPPORTED",
            f"This adapter is {found[0]}, which the engine cannot do. Train it as plain LoRA, rsLoRA or DoRA.",
            ", ".join(found),
            kind=found[0],
        )
    init = table.get("init_lora_weights")
    for start, name in _INITS_REFUSED:
        if isinstance(init, str) and init.lower().startswith(start):
            raise UnsupportedAdapter(
                "ADAPTER_KIND_UNSUPPORTED",
                f"This adapter was begun with {name}, which changes the base model too. Convert it to plain LoRA when"
                " saving (path_initial_model_for_weight_conversion of peft) and import that.",
                f"init_lora_weights {_short(init)}",
                kind=name,
            )


# --- values within bounds ---


def _rank(table: dict[str, Any], name: str, default: int) -> int:
    value = table.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_RANK:
        raise _bad(name, f"is {_short(str(value))}, and a rank is a whole number from 1 on")
    return value


def _number(value: Any, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= 1e9:
        raise _bad(name, f"is {_short(str(value))}, which is no number of use")
    return value


def _flag(table: dict[str, Any], name: str) -> bool:
    value = table.get(name)
    if value is not None and not isinstance(value, bool):
        raise _bad(name, f"is {_short(str(value))}, and must be true or false")
    return bool(value)


def _text(table: dict[str, Any], name: str) -> str:
    value = table.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise _bad(name, "is no text, or too long")
    return "".join(character for character in value if character.isprintable()).strip()


def _table(table: dict[str, Any], name: str) -> dict[str, Any]:
    value = table.get(name) or {}
    if isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        value = {
            pair[0] if isinstance(pair[0], str) else "": pair[1] for pair in value
        }  # as `as_dict` writes it
    if not isinstance(value, dict) or len(value) > _MAX_ITEMS:
        raise _bad(name, "is no table of values by module")
    return value


def _names(table: dict[str, Any], name: str) -> tuple[str, ...]:
    value = table.get(name) or []
    if (
        not isinstance(value, list)
        or len(value) > _MAX_ITEMS
        or not all(isinstance(item, str) and len(item) <= _MAX_TEXT for item in value)
    ):
        raise _bad(name, "is no list of names")
    # peft keeps them in a set and writes them in any order.
    return tuple(sorted(set(value)))


def _names_or_pattern(table: dict[str, Any], name: str) -> tuple[str, ...] | str:
    value = table.get(name)
    if isinstance(value, str) and value:
        if len(value) > _MAX_TEXT * 10:
            raise _bad(name, "is too long")
        return value
    return _names(table, name)


def _one_or_more(table: dict[str, Any], name: str) -> tuple[str, ...]:
    value = table.get(name)
    return _names({name: [value]} if isinstance(value, str) and value else table, name)


def _layers(table: dict[str, Any]) -> tuple[int, ...]:
    value = table.get("layers_to_transform")
    if value is None:
        return ()
    layers = value if isinstance(value, list) else [value]
    if len(layers) > _MAX_ITEMS or not all(
        isinstance(layer, int) and not isinstance(layer, bool) and 0 <= layer <= _MAX_ITEMS
        for layer in layers
    ):
        raise _bad("layers_to_transform", "is no list of layers")
    return tuple(sorted(set(layers)))


# --- patterns ---

#: What may repeat without bound. Three of them over a name of a hundred characters stay quick; more may never end.
_UNBOUNDED: Final = re.compile(r"(?<!\\)(?:[*+]|\{\d*,\d*\})")
_MAX_UNBOUNDED: Final = 3
_REPEATED_GROUP: Final = re.compile(r"\)(?:[*+]|\{\d*,?\d*\})")


def _pattern(pattern: str, name: str) -> str:
    """Check a pattern of `rank_pattern` or `alpha_pattern`, which peft takes for a regular expression."""
    if not pattern:
        raise _bad(name, "holds an empty pattern")
    if (
        len(pattern) > 500
        or len(_UNBOUNDED.findall(pattern)) > _MAX_UNBOUNDED
        or _REPEATED_GROUP.search(pattern)
    ):
        raise _bad(name, f"holds a pattern too involved to be safe: {_short(pattern)}")
    try:
        re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, RecursionError, OverflowError) as error:
        raise _bad(name, f"holds {_short(pattern)}, which is no regular expression") from error
    return pattern


def _matching(patterns: dict[str, Any], module: str) -> str | None:
    """The first pattern that fits a module, as `peft.utils.other.get_pattern_key` decides it."""
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), None)


def _short(text: str, characters: int = 120) -> str:
    plain = "".join(character if character.isprintable() else "?" for character in text)
    return plain if len(plain) <= characters else f"{plain[: characters - 1]}…"


def _bad(name: str, problem: str) -> BrokenAdapter:
    return BrokenAdapter(
        "CONFIG_INVALID",
        f"The adapter's config cannot be used: {name} {problem}. Take the adapter_config.json that training wrote.",
    )


def _no_config(detail: str) -> NotAnAdapter:
    return NotAnAdapter(
        "NOT_AN_ADAPTER_CONFIG",
        "The adapter_config.json is not the config of an adapter. Take the one that training wrote beside the weights.",
        detail,
    )
