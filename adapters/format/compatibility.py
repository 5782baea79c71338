"""Whether an adapter works with a model: the one place where a verdict is decided.

Works on plain facts; the querysets of `adapters.models` ask the same in SQL, and a test holds both together.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from adapters.format.fingerprint import Fingerprint

#: Families of models, as the checkpoints' `model_type` calls them, and how people do.
FAMILY_WORDS: Final = {"musicgen": "a text model", "musicgen_melody": "a melody model"}

#: Fields of a fingerprint that must equal the model's where both are known, in the order in which one is named.
EQUAL_FIELDS: Final = (
    "family",
    "channels",
    "hidden_size",
    "layers",
    "ffn_dim",
    "heads",
    "codebooks",
    "text_width",
)
#: Fields that count only where no base model is known, and the model's field each must equal.
LIKELY_FIELDS: Final = {"listed_codebooks": "codebooks"}
#: Fields that the model must at least reach, and the model's field each is compared with.
LEAST_FIELDS: Final = {"min_layers": "layers", "min_codebooks": "codebooks"}


class Verdict(StrEnum):
    """How an adapter stands to a model."""

    EXACT = "exact"
    SAME_ARCHITECTURE = "same_architecture"
    UNKNOWN_BASE = "unknown_base"
    INCOMPATIBLE = "incompatible"
    BROKEN = "broken"


USABLE_VERDICTS: Final = frozenset({Verdict.EXACT, Verdict.SAME_ARCHITECTURE, Verdict.UNKNOWN_BASE})


@dataclass(frozen=True)
class Architecture:
    """How a model is built; None where that is not known yet. `model_id` and `name` are the registry's."""

    model_id: str
    name: str
    hf_model_id: str = ""
    family: str | None = None
    hidden_size: int | None = None
    layers: int | None = None
    ffn_dim: int | None = None
    heads: int | None = None
    codebooks: int | None = None
    channels: int | None = None
    text_width: int | None = None


@dataclass(frozen=True)
class AdapterFacts:
    """What a verdict is decided from. `base` is the named base model, None where the registry does not know it."""

    fingerprint: Fingerprint
    base: Architecture | None = None
    broken_reason: str = ""


@dataclass(frozen=True)
class Judgement:
    """A verdict with its reason in a few words, as a list shows them.

    `field` names what differs when incompatible; `required_model_id` and `required_model_name` name the base model
    when it is known and is not the model that was asked for.
    """

    verdict: Verdict
    reason: str
    field: str = ""
    required_model_id: str = ""
    required_model_name: str = ""

    @property
    def is_usable(self) -> bool:
        """Whether jobs on that model may use it, as far as its files tell."""
        return self.verdict in USABLE_VERDICTS


def contradiction(fingerprint: Fingerprint, model: Architecture) -> str:
    """The first field in which the file's own facts contradict a model; empty where none does."""
    for field in EQUAL_FIELDS:
        told, there = getattr(fingerprint, field), getattr(model, field)
        if told is not None and there is not None and told != there:
            return field
    for field, of_model in LEAST_FIELDS.items():
        told, there = getattr(fingerprint, field), getattr(model, of_model)
        if told is not None and there is not None and told > there:
            return field
    return ""


def _unlikely(fingerprint: Fingerprint, model: Architecture) -> str:
    """The first field in which a model is not what the file was most likely made for."""
    for field, of_model in LIKELY_FIELDS.items():
        told, there = getattr(fingerprint, field), getattr(model, of_model)
        if told is not None and there is not None and told != there:
            return field
    return ""


def judge(adapter: AdapterFacts, model: Architecture) -> Judgement:
    """The verdict on an adapter for a model.

    A named base that the shapes contradict is not believed: the adapter is then judged by its shapes alone.
    """
    if adapter.broken_reason:
        return Judgement(Verdict.BROKEN, adapter.broken_reason)
    told, base = adapter.fingerprint, adapter.base
    if base is not None and contradiction(told, base):
        base = None
    if base is not None and base.model_id == model.model_id:
        return Judgement(Verdict.EXACT, f"Made for {model.name}")
    field = contradiction(told, model) or ("" if base is not None else _unlikely(told, model))
    if field and base is not None:
        return _requires(base, field)
    if field:
        return Judgement(Verdict.INCOMPATIBLE, _difference(told, model, field), field)
    if base is None:
        return Judgement(Verdict.UNKNOWN_BASE, "Its base model is not known; its shapes fit")
    differing = [
        field
        for field in EQUAL_FIELDS
        if getattr(told, field) is None
        and None not in (getattr(base, field), getattr(model, field))
        and getattr(base, field) != getattr(model, field)
    ]
    if differing:
        return _requires(base, differing[0])
    if any(getattr(each, field) is None for each in (base, model) for field in EQUAL_FIELDS):
        unknown = base if any(getattr(base, field) is None for field in EQUAL_FIELDS) else model
        return Judgement(
            Verdict.UNKNOWN_BASE,
            f"Made for {base.name}; how {unknown.name} is built is known once it is installed",
            required_model_id=base.model_id,
            required_model_name=base.name,
        )
    return Judgement(
        Verdict.SAME_ARCHITECTURE,
        f"Made for {base.name}, which is built the same way",
        required_model_id=base.model_id,
        required_model_name=base.name,
    )


def _requires(base: Architecture, field: str) -> Judgement:
    return Judgement(
        Verdict.INCOMPATIBLE,
        f"Requires {base.name}",
        field,
        required_model_id=base.model_id,
        required_model_name=base.name,
    )


def _difference(told: Fingerprint, model: Architecture, field: str) -> str:
    """In words what the adapter was made for and what the model has."""
    wanted = getattr(told, field)
    there = getattr(model, {**LEAST_FIELDS, **LIKELY_FIELDS}.get(field, field))
    if field == "family":
        made_for = FAMILY_WORDS.get(str(wanted), f"a {wanted} model")
        return f"Made for {made_for}, this is {FAMILY_WORDS.get(str(there), f'a {there} model')}"
    if field == "channels":
        return f"Made for {_channels(wanted)} models, this one is {_channels(there)}"
    words = {
        "hidden_size": "hidden size {}",
        "layers": "{} layers",
        "min_layers": "at least {} layers",
        "ffn_dim": "feed-forward size {}",
        "heads": "{} attention heads",
        "codebooks": "{} codebooks",
        "listed_codebooks": "{} codebooks",
        "min_codebooks": "at least {} codebooks",
        "text_width": "text width {}",
    }
    return f"Made for {words[field].format(wanted)}, this model has {there}"


def _channels(number: int) -> str:
    return "stereo" if number == 2 else "mono" if number == 1 else f"{number}-channel"
