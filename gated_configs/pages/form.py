"""The form of the memory page: its lists, its defaults for the model at hand, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from gated_configs.memory import (
    ACTIVATION_FORMATS,
    CACHE_FORMATS,
    CARDS,
    WEIGHT_FORMATS,
    Architecture,
    Card,
    default_request,
)
from gated_configs.pages.asked import Asked
from gated_configs.pages.units import box_size, format_words, in_decimal, short_name
from gated_configs.services.builtin import builtin_ids
from gated_configs.services.comparison import MOST_MODELS
from gated_configs.services.questions import THIS_MACHINE, length_unit, this_machine
from gated_configs.wording import plain_number

_MORE: Final = (
    "cache_precision",
    "activation_precision",
    "guidance",
    "tensor_parallel",
    "memory_gb",
    "encoder_tokens",
)
#: How the sentences of the services call a field, and how the page does.
LABELS: Final = {
    "batch_size": "Batch",
    "seq_length": "Context",
    "duration_seconds": "Seconds of music",
    "encoder_tokens": "Tokens that the encoder reads",
    "tensor_parallel": "Cards side by side",
    "precision": "Precision of the weights",
    "cache_precision": "Precision of the cache",
    "activation_precision": "Precision of activations",
    "gpu": "Card",
    "memory_bytes": "Memory of your own",
}
#: Fields of the services that have another name in the form.
_FIELDS: Final = {"memory_bytes": "memory_gb", "models": "model"}
_ACTIONS: Final = {
    "calculate": "Every figure of one model",
    "analyse": "One model by batch and length, against a card",
    "compare": "Several models side by side",
}
_TOKENS: Final = (2048, 8192, 32_768, 131_072)
_SECONDS: Final = (10, 30, 60, 120)
_PREFIX: Final = "musicgen-"


@dataclass(frozen=True)
class Pick:
    """A model to choose; `address` asks the action that is shown of it."""

    id: str
    name: str
    address: str
    is_chosen: bool


@dataclass(frozen=True)
class Entry:
    """A model of a comparison, and the comparison without it."""

    text: str
    without: str


@dataclass(frozen=True)
class Length:
    """A usual length to choose."""

    field: str
    value: str
    label: str
    is_chosen: bool


@dataclass(frozen=True)
class ActionButton:
    """One of the three actions. The one that is shown comes forward: Enter and options repeat it."""

    value: str
    label: str
    meaning: str
    is_first: bool


@dataclass(frozen=True)
class MemoryForm:
    """Everything the form's template prints."""

    model: str
    tray: tuple[Entry, ...]
    picks: tuple[Pick, ...]
    suggestions: tuple[Pick, ...]
    actions: tuple[ActionButton, ...]
    kind: str
    default_precision: str
    default_tokens: str
    default_seconds: str
    shows_seconds: bool
    shows_tokens: bool
    shows_encoder: bool
    lengths: tuple[Length, ...]
    precisions: tuple[tuple[str, str], ...]
    cache_precisions: tuple[str, ...]
    activation_precisions: tuple[str, ...]
    cards: tuple[tuple[str, tuple[Card, ...]], ...]
    default_card: str
    machine: str
    machine_address: str
    has_more: bool
    more_line: str
    errors: dict[str, str] = field(default_factory=dict)


def form_of(
    asked: Asked, architecture: Architecture | None = None, errors: dict[str, str] | None = None
) -> MemoryForm:
    """The form for what is asked; `architecture` is of the one model at hand."""
    is_comparison = asked.action == "compare"
    unit = length_unit(architecture) if architecture is not None else None
    kind = {"seconds": "music", "tokens": "text"}.get(str(unit), "")
    if architecture is not None and not architecture.has_cache:
        kind = "encoder"
    shows_seconds = architecture is None or unit == "seconds"
    shows_tokens = architecture is None or unit == "tokens"
    usual = default_request(architecture) if architecture is not None else None
    machine = this_machine()
    musicgen = tuple(_picks(asked))
    machine_models = tuple(pick.id for pick in musicgen[:MOST_MODELS])
    on_machine = {"gpu": THIS_MACHINE} if machine is not None else {}
    return MemoryForm(
        model="" if is_comparison else asked.model,
        tray=tuple(_tray(asked)) if is_comparison else (),
        picks=tuple(pick for pick in musicgen if "melody" not in pick.id) if not is_comparison else (),
        suggestions=musicgen,
        actions=tuple(
            ActionButton(value, value.capitalize(), meaning, value == (asked.action or "calculate"))
            for value, meaning in _ACTIONS.items()
        ),
        kind=kind,
        default_precision=_default_precision(architecture),
        default_tokens=f"{usual.context:,}" if usual is not None else "8,192",
        default_seconds=plain_number(usual.duration_seconds) if usual and usual.duration_seconds else "30",
        shows_seconds=shows_seconds,
        shows_tokens=shows_tokens,
        shows_encoder=architecture is not None and architecture.shapes.encoder_layers > 0,
        lengths=tuple(_lengths(asked, architecture, unit)),
        precisions=tuple((name, f"{name} · {item.description}") for name, item in WEIGHT_FORMATS.items()),
        cache_precisions=tuple(CACHE_FORMATS),
        activation_precisions=tuple(ACTIVATION_FORMATS),
        cards=tuple(_cards()),
        default_card="The smallest that it fits",
        machine=f"This machine · {machine.name} · {in_decimal(machine.memory_bytes)}" if machine else "",
        machine_address=asked.changed(action="compare", models=machine_models, options=on_machine).address,
        has_more=any(name in asked.options for name in _MORE) or bool(set(_MORE) & set(errors or {})),
        more_line=_more_line(asked),
        errors=errors or {},
    )


def _default_precision(architecture: Architecture | None) -> str:
    """What an empty choice of precision means for the model at hand."""
    if architecture is None:
        return "As published"
    words = format_words(default_request(architecture), architecture)
    is_published = architecture.dtype is not None or architecture.quantisation is not None
    return f"As published · {words.removesuffix(', as published')}" if is_published else f"Usual · {words}"


def field_error(field_name: str, sentence: str) -> tuple[str, str]:
    """A refusal of the services at its field of the form, in the form's words."""
    label = LABELS.get(field_name, "")
    if label and sentence.startswith(field_name):
        sentence = label + sentence[len(field_name) :]
    return _FIELDS.get(field_name, field_name), sentence


def _picks(asked: Asked) -> list[Pick]:
    """The models that the studio ships configs of: by size, the melody ones last."""
    ids = sorted(builtin_ids(), key=_order)
    return [
        Pick(
            id=model_id,
            name=_pick_name(model_id),
            address=asked.changed(
                action=asked.action if asked.action in ("calculate", "analyse") else "calculate",
                models=(model_id,),
            ).address,
            is_chosen=asked.action != "compare" and asked.model.casefold() == model_id.casefold(),
        )
        for model_id in ids
    ]


def _order(model_id: str) -> tuple[bool, bool, int, str]:
    sizes = ("demo", "small", "medium", "large")
    size = next((place for place, name in enumerate(sizes) if name in model_id), len(sizes))
    return "melody" in model_id, "stereo" in model_id, size, model_id


def _pick_name(model_id: str) -> str:
    name = model_id.rpartition("/")[2]
    return short_name(name.removeprefix(_PREFIX)).capitalize()


def _tray(asked: Asked) -> list[Entry]:
    return [
        Entry(text, asked.changed(models=tuple(other for other in asked.models if other != text)).address)
        for text in asked.models
    ]


def _lengths(asked: Asked, architecture: Architecture | None, unit: str | None) -> list[Length]:
    """A few usual lengths of the model at hand, and its own limit."""
    if architecture is None or unit is None:
        return []
    if unit == "seconds":
        chosen = asked.options.get("duration_seconds", "")
        return [
            Length("duration_seconds", str(value), f"{value}\u202fs", chosen == str(value))
            for value in _SECONDS
        ]
    limit = architecture.shapes.max_context
    values = [value for value in _TOKENS if not limit or value < limit] + ([limit] if limit else [])
    chosen = asked.options.get("seq_length", "")
    return [Length("seq_length", str(value), _short(value), chosen == str(value)) for value in values]


def _short(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else f"{tokens:,}"


def _cards() -> list[tuple[str, tuple[Card, ...]]]:
    sizes: dict[int, list[Card]] = {}
    for card in CARDS:
        sizes.setdefault(card.memory_bytes, []).append(card)
    return [(box_size(size), tuple(cards)) for size, cards in sizes.items()]


def _more_line(asked: Asked) -> str:
    said = []
    if "cache_precision" in asked.options:
        said.append(f"cache {asked.options['cache_precision']}")
    if "activation_precision" in asked.options:
        said.append(f"activations {asked.options['activation_precision']}")
    if asked.options.get("guidance") == "off":
        said.append("no guidance")
    if "tensor_parallel" in asked.options:
        said.append(f"{asked.options['tensor_parallel']} cards")
    if "memory_gb" in asked.options:
        said.append(f"{asked.options['memory_gb']} GB")
    return " · ".join(said) or "cache, cards side by side"
