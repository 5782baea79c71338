"""The names of an adapter's tensors, whatever part of the network it was trained on, brought to one form.

The one form is the path of the module in the whole network, as `MusicgenForConditionalGeneration.named_modules()`
tells it: `decoder.model.decoder.layers.0.self_attn.q_proj`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class PrefixKind(StrEnum):
    """The part of the network that the adapter's names start from."""

    WHOLE = "whole"
    DECODER = "decoder"
    DECODER_MODEL = "decoder_model"
    DECODER_STACK = "decoder_stack"
    WRAPPED = "wrapped"


#: What people read about names that were repaired.
PREFIX_NOTES: Final = {
    PrefixKind.DECODER: "Trained on the decoder alone; its names were extended to the whole model.",
    PrefixKind.DECODER_MODEL: "Trained on the inner part of the decoder; its names were extended to the whole model.",
    PrefixKind.DECODER_STACK: "Trained on the layers alone; their names were extended to the whole model.",
    PrefixKind.WRAPPED: "Trained inside another module, whose name was taken off.",
}
NO_PEFT_PREFIX_NOTE: Final = "Its names lack the prefix that peft writes; they were completed."
ADAPTER_NAME_NOTE: Final = "The names of its tensors hold the name it had in training, which was taken off."


class KeyKind(StrEnum):
    """What a tensor is to the module it belongs to."""

    LORA_A = "lora_A"
    LORA_B = "lora_B"
    EMBEDDING_A = "lora_embedding_A"
    EMBEDDING_B = "lora_embedding_B"
    MAGNITUDE = "lora_magnitude_vector"
    SAVED = "saved"


@dataclass(frozen=True)
class LoraKey:
    """One tensor's name, taken apart.

    `module` is the canonical path; `trained_module` is the path as training saw it, which patterns of the config
    speak of; `parameter` is "weight" or "bias" where the tensor is a module saved whole, else "weight". `raw` is the
    name in the file.
    """

    raw: str
    module: str
    trained_module: str
    kind: KeyKind
    parameter: str
    prefix: PrefixKind
    has_peft_prefix: bool
    has_adapter_name: bool


#: One layer's modules; both families share them, melody models lack `encoder_attn`.
_LAYER: Final = (
    r"layers\.\d+\.(?:(?:self_attn|encoder_attn)(?:\.[kvq]_proj|\.out_proj)?|fc1|fc2"
    r"|self_attn_layer_norm|encoder_attn_layer_norm|final_layer_norm)"
)
_STACK: Final = rf"(?:{_LAYER}|layers(?:\.\d+)?|embed_tokens(?:\.\d+)?|layer_norm|embed_positions)"
_HEADS: Final = r"lm_heads(?:\.\d+)?"
_PROJECTIONS: Final = r"(?:audio_)?enc_to_dec_proj"
_ENCODERS: Final = r"(?:text_encoder|audio_encoder)(?:\.[A-Za-z0-9_]+)*"

#: From the whole inwards: the first that fits decides, and says what to put before the name.
_ROOTS: Final[tuple[tuple[PrefixKind, re.Pattern[str], str], ...]] = (
    (
        PrefixKind.WHOLE,
        re.compile(rf"decoder\.(?:model\.decoder\.{_STACK}|{_HEADS})|{_PROJECTIONS}|{_ENCODERS}"),
        "",
    ),
    (PrefixKind.DECODER, re.compile(rf"model\.decoder\.{_STACK}|{_HEADS}"), "decoder."),
    (PrefixKind.DECODER_MODEL, re.compile(rf"decoder\.{_STACK}"), "decoder.model."),
    (PrefixKind.DECODER_STACK, re.compile(_STACK), "decoder.model.decoder."),
)
#: Modules of people's own around the whole model.
_WRAPPER: Final = re.compile(
    r"(?:[A-Za-z_][A-Za-z0-9_]*\.){1,3}?"
    r"(?=decoder\.(?:model\.decoder|lm_heads)\.|(?:audio_)?enc_to_dec_proj|(?:text|audio)_encoder\.)"
)

_PEFT_PREFIX: Final = "base_model.model."
#: A name given to the adapter in training, where its whole state was saved: `lora_A.default.weight`.
_ADAPTER_NAME: Final = r"[A-Za-z0-9_-]{1,60}"
_SUFFIXES: Final = re.compile(
    rf"\.(?:(?P<linear>lora_A|lora_B)(?:\.(?P<linear_name>{_ADAPTER_NAME}))?\.weight"
    rf"|(?P<embedding>lora_embedding_A|lora_embedding_B)(?:\.(?P<embedding_name>{_ADAPTER_NAME}))?"
    rf"|(?P<magnitude>lora_magnitude_vector)(?:\.(?P<magnitude_name>(?!weight\Z){_ADAPTER_NAME}))?(?:\.weight)?)\Z"
)
_SAVED: Final = re.compile(
    rf"(?P<module>.+?)(?:\.modules_to_save\.(?P<name>{_ADAPTER_NAME})(?P<inner>(?:\.[A-Za-z0-9_]+)*?))?"
    r"\.(?P<parameter>weight|bias)\Z"
)


def canonical_module(raw: str) -> tuple[str, PrefixKind] | None:
    """The path in the whole network of a module that training named `raw`; None where MusicGen has no such module."""
    for kind, pattern, before in _ROOTS:
        if pattern.fullmatch(raw):
            return before + raw, kind
    if wrapper := _WRAPPER.match(raw):
        inner = raw[wrapper.end() :]
        if _ROOTS[0][1].fullmatch(inner):
            return inner, PrefixKind.WRAPPED
    return None


def parse_key(raw: str) -> LoraKey | None:
    """Take a tensor's name apart; None where it is not one that peft writes for a MusicGen model."""
    name = raw.removeprefix(_PEFT_PREFIX)
    if lora := _SUFFIXES.search(name):
        kind = KeyKind(lora["linear"] or lora["embedding"] or lora["magnitude"])
        adapter_name = lora["linear_name"] or lora["embedding_name"] or lora["magnitude_name"]
        trained, parameter = name[: lora.start()], "weight"
    elif saved := _SAVED.fullmatch(name):
        kind, adapter_name, parameter = KeyKind.SAVED, saved["name"], saved["parameter"]
        trained = saved["module"] + (saved["inner"] or "")
    else:
        return None
    found = canonical_module(trained)
    if found is None:
        return None
    return LoraKey(
        raw=raw,
        module=found[0],
        trained_module=trained,
        kind=kind,
        parameter=parameter,
        prefix=found[1],
        has_peft_prefix=name != raw,
        has_adapter_name=adapter_name is not None,
    )


def repair_notes(keys: list[LoraKey]) -> list[str]:
    """Sentences on what had to be repaired in the names; empty where they are those of the whole model."""
    kinds = {key.prefix for key in keys}
    notes = [note for kind, note in PREFIX_NOTES.items() if kind in kinds]
    if not all(key.has_peft_prefix for key in keys):
        notes.append(NO_PEFT_PREFIX_NOTE)
    if any(key.has_adapter_name for key in keys):
        notes.append(ADAPTER_NAME_NOTE)
    return notes
