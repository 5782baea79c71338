"""Everything that an adapter's two files tell, read and checked in one go before it is let in.

Whoever wants to know whether files are a sound adapter asks here; knows nothing of where they came from.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adapters.format.errors import BrokenAdapter, UnsupportedAdapter
from adapters.format.fingerprint import Fingerprint, fingerprint_of
from adapters.format.keys import KeyKind, LoraKey, parse_key, repair_notes
from adapters.format.lora_config import AdapterConfig, parse_config
from adapters.format.recognise import no_config, not_lora, refuse_other_base, refuse_other_content
from adapters.format.safetensors_header import WeightsHeader, read_header
from adapters.format.tensors import FLOATS, look_at_values

INCOMPLETE: Final = "ADAPTER_INCOMPLETE"
NO_EFFECT: Final = "ADAPTER_NO_EFFECT"
NOT_FINITE: Final = "ADAPTER_NOT_FINITE"
UNKNOWN_TENSORS: Final = "ADAPTER_TENSORS_UNKNOWN"

#: The two halves of each pair.
_PAIRS: Final = {KeyKind.LORA_A: KeyKind.LORA_B, KeyKind.EMBEDDING_A: KeyKind.EMBEDDING_B}

#: What peft writes of an adapted layer when it is told to save embeddings and heads.
_COPIES: Final = (".base_layer.weight", ".base_layer.bias")

_HEADS: Final = "decoder.lm_heads."
_EMBEDDINGS: Final = "decoder.model.decoder.embed_tokens."


@dataclass(frozen=True)
class Inspection:
    """A sound adapter, as its files tell it. `notes` are sentences on what was repaired or left out."""

    config: AdapterConfig
    header: WeightsHeader
    keys: tuple[LoraKey, ...]
    fingerprint: Fingerprint
    notes: tuple[str, ...]

    @property
    def tensor_count(self) -> int:
        """How many tensors it has."""
        return len(self.keys)

    @property
    def base_model_name(self) -> str:
        """The base model as the config names it; empty where it names none."""
        return self.config.base_model_name

    @property
    def rank(self) -> int:
        """The rank that most of its modules have."""
        ranks = Counter(self.config.rank_of(key.trained_module) for key in self.keys if key.kind in _PAIRS)
        return ranks.most_common(1)[0][0] if ranks else self.config.r

    @property
    def alpha(self) -> float:
        """The alpha of modules that no pattern names."""
        return self.config.lora_alpha

    @property
    def variants(self) -> list[str]:
        """What it has beyond plain LoRA on the decoder's layers, in the field's words."""
        modules = {key.module for key in self.keys}
        found = self.config.variants
        if any(key.kind is KeyKind.SAVED for key in self.keys):
            found.append("saved modules")
        if any(module.startswith(_HEADS) for module in modules):
            found.append("heads")
        if any(module.startswith(_EMBEDDINGS) for module in modules):
            found.append("embeddings")
        if any(module.startswith("text_encoder.") for module in modules):
            found.append("text encoder")
        return found


def identity(weights_sha256: str, config: AdapterConfig) -> str:
    """The hash that tells one adapter from another: of its weights' hash and of what its config decides."""
    return hashlib.sha256(f"{weights_sha256}\n{config.canonical()}".encode()).hexdigest()


def inspect(weights: Path, config: bytes | str | None) -> Inspection:
    """Read and check an adapter's weights file and the content of its config; None where there is no config.

    Raises AdapterRefused, in one of its kinds, with the first reason why it cannot be used; OSError as reading does.
    """
    refuse_other_content(weights)
    header = read_header(weights)
    if config is None:
        raise no_config(header.tensors)
    told = parse_config(config)
    refuse_other_base(told)
    keys = _read_keys(header, told)
    _check_types(header, keys)
    _check_modules(header, keys, told)
    fingerprint = fingerprint_of(((key, header.tensors[key.raw].shape) for key in keys), told)
    _check_values(weights, header, keys, told)
    return Inspection(
        config=told,
        header=header,
        keys=tuple(keys),
        fingerprint=fingerprint,
        notes=(*repair_notes(keys), *_left_out(told)),
    )


def _read_keys(header: WeightsHeader, config: AdapterConfig) -> list[LoraKey]:
    """All names taken apart; refuses the file when one cannot be."""
    if config.bias != "none" and any(name.endswith("bias") for name in header.tensors):
        raise UnsupportedAdapter(
            "ADAPTER_KIND_UNSUPPORTED",
            "This adapter is LoRA with trained biases, which the engine cannot do. Train it with bias='none'.",
            f"bias {config.bias[:40]}",
            kind="LoRA with trained biases",
        )
    read = {name: parse_key(name) for name in header.tensors}
    keys = [key for key in read.values() if key is not None]
    if not any(key.kind is not KeyKind.SAVED for key in keys):
        raise not_lora(header.tensors, config.base_model_name)
    unknown = sorted(name for name, key in read.items() if key is None)
    if any(name.endswith(_COPIES) for name in unknown):
        raise UnsupportedAdapter(
            "ADAPTER_KIND_UNSUPPORTED",
            "The adapter holds copies of the base model's own layers beside its own tensors. Save it again with"
            " save_embedding_layers=False.",
            ", ".join(unknown[:5])[:500],
            kind="LoRA with copies of the base model's layers",
        )
    if unknown:
        raise BrokenAdapter(
            UNKNOWN_TENSORS,
            f"The adapter holds tensors that belong to no part of a MusicGen model ({len(unknown)} of {len(read)}, such as"
            f" {unknown[0][:120]}). Import one that was trained on MusicGen alone.",
            ", ".join(unknown[:5])[:500],
        )
    places = Counter((key.module, key.kind, key.parameter) for key in keys)
    if twice := next((place for place, count in places.items() if count > 1), None):
        raise BrokenAdapter(
            INCOMPLETE,
            f"The adapter holds two tensors for the same place ({twice[0]}). Import it as training wrote it.",
            f"{twice[1]} of {twice[0]}",
        )
    return keys


def _check_types(header: WeightsHeader, keys: list[LoraKey]) -> None:
    for key in keys:
        dtype = header.tensors[key.raw].dtype
        if dtype not in FLOATS:
            raise UnsupportedAdapter(
                "ADAPTER_KIND_UNSUPPORTED",
                f"The adapter's weights are of the type {dtype}, which the engine cannot use. Save them in 16 or 32 bits.",
                key.raw[:200],
                kind=f"weights of type {dtype}",
            )


def _check_modules(header: WeightsHeader, keys: list[LoraKey], config: AdapterConfig) -> None:
    """Every module has all the tensors it needs, of shapes that belong together."""
    modules: dict[str, dict[KeyKind, LoraKey]] = {}
    for key in keys:
        modules.setdefault(key.module, {})[key.kind] = key
    for module, there in modules.items():
        shapes = {kind: header.tensors[key.raw].shape for kind, key in there.items()}
        if KeyKind.SAVED in there:
            if len(there) > 1:
                raise _incomplete(module, "is saved whole and has low-rank tensors too")
            continue
        pair = next((pair for pair in _PAIRS.items() if set(pair) & set(there)), None)
        if pair is None:
            raise _incomplete(module, "has a magnitude and no low-rank tensors")
        if missing := set(pair) - set(there):
            raise _incomplete(module, f"lacks its {missing.pop()}")
        if set(there) - {*pair, KeyKind.MAGNITUDE}:
            raise _incomplete(module, "is an embedding and a linear layer at once")
        a, b = (shapes[half] for half in pair)
        rank = config.rank_of(there[pair[0]].trained_module)
        if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
            raise _incomplete(
                module, f"has tensors of shapes {list(a)} and {list(b)}, which do not fit together"
            )
        if a[0] != rank:
            raise BrokenAdapter(
                INCOMPLETE,
                f"The config says rank {rank} and the tensors have rank {a[0]} ({module}). Take the adapter_config.json"
                " that training wrote beside these weights.",
                f"{module}: {list(a)}",
            )
        if config.use_dora != (KeyKind.MAGNITUDE in there):
            raise _incomplete(
                module,
                "lacks the magnitude that DoRA needs"
                if config.use_dora
                else "has a magnitude, and the config tells no DoRA",
            )


def _check_values(weights: Path, header: WeightsHeader, keys: list[LoraKey], config: AdapterConfig) -> None:
    """Every value is a number, and together they do something."""
    seen = look_at_values(weights, ((key.raw, header.tensors[key.raw]) for key in keys))
    for key in keys:
        if not seen[key.raw].is_finite:
            raise BrokenAdapter(
                NOT_FINITE,
                "The adapter holds values that are no numbers: its training went wrong. Use an earlier checkpoint of it.",
                key.raw[:200],
            )
    by_place = {(key.module, key.kind): seen[key.raw] for key in keys}
    acts = any(
        not by_place[key.module, key.kind].is_all_zero
        and not by_place[key.module, _PAIRS[key.kind]].is_all_zero
        and config.scale_of(key.trained_module) != 0
        for key in keys
        if key.kind in _PAIRS
    )
    # Modules saved whole act by themselves; whether they differ from the base's, the proof shows.
    if not acts and not any(key.kind is KeyKind.SAVED for key in keys):
        raise BrokenAdapter(
            NO_EFFECT,
            "The adapter changes nothing: its tensors are zero, as before training. Use a checkpoint that was trained.",
        )


def _left_out(config: AdapterConfig) -> list[str]:
    if not config.unknown_settings:
        return []
    return [
        f"Its config holds settings that are not known here and were left out: {', '.join(config.unknown_settings)}."
    ]


def _incomplete(module: str, problem: str) -> BrokenAdapter:
    return BrokenAdapter(
        INCOMPLETE,
        f"The adapter is incomplete: {module} {problem}. Import it as training wrote it.",
        module,
    )
