"""The figures of one model for one question: its parts, what it fits on, how far it could go, and what to change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from django.contrib.auth.models import User

from gated_configs.memory import (
    WEIGHT_FORMATS,
    Architecture,
    Card,
    CardFit,
    DoesNotFit,
    MemoryEstimate,
    Request,
    describe,
    estimate,
    fit_on,
    largest_batch,
    longest_context,
    longest_take,
    smallest_card,
)
from gated_configs.memory.estimate import weight_bytes
from gated_configs.services.lookup import FoundConfig, find_config
from gated_configs.services.model_ids import normalised_id
from gated_configs.services.questions import (
    MOST_SECONDS,
    MOST_SEQUENCES,
    THIS_MACHINE,
    LengthUnit,
    Question,
    card_of,
    check_question,
    known_cards,
    knows_batches,
    length_unit,
    on_card,
    request_of,
)
from gated_configs.services.recommendations import (
    Recommendation,
    in_format,
    recommend,
    takes_quantised_weights,
)

Verdict = Literal["comfortable", "barely", "not"]

#: Formats of GGUF files, which hold language models.
_GGUF: Final = frozenset({"q8_0", "q4_0", "q4_k"})


@dataclass(frozen=True)
class Longest:
    """The longest context or take on a card. `is_models_limit` where the model ends before the memory does."""

    value: float
    unit: LengthUnit
    is_models_limit: bool


@dataclass(frozen=True)
class WeightsIn:
    """The weights in one format, and whether that is the one asked for."""

    name: str
    description: str
    weight_bytes: int
    is_chosen: bool


@dataclass(frozen=True)
class Calculation:
    """Everything about one model and one question. `fit`, `longest` and `largest_batch` are for `card`.

    `card` is the one asked for, else the smallest that it fits on, else None. `machine` is the fit on this machine.
    """

    model_id: str
    found: FoundConfig
    architecture: Architecture
    question: Question
    request: Request
    estimate: MemoryEstimate
    card: Card | None
    fit: CardFit | None
    smallest_card: CardFit | None
    machine: CardFit | None
    longest: Longest | None
    largest_batch: int | None
    recommendations: tuple[Recommendation, ...]
    dtype_table: tuple[WeightsIn, ...]
    cards: tuple[CardFit, ...]
    notes: tuple[str, ...]

    @property
    def length_unit(self) -> LengthUnit | None:
        """What the model's length is counted in."""
        return length_unit(self.architecture)


def calculate(*, user: User, model_id: str, question: Question) -> Calculation:
    """Find the model's config and answer.

    Raises InvalidModelId, InvalidQuestion, LookupFailed, or a CalculatorError for a config that cannot be computed.
    """
    model_id = normalised_id(model_id)
    check_question(question)
    wanted = card_of(question)
    found = find_config(user=user, model_id=model_id)
    return figures(found, describe(found.config), question, wanted)


def figures(
    found: FoundConfig, architecture: Architecture, question: Question, wanted: Card | None
) -> Calculation:
    """The answer for a config that is at hand."""
    request = request_of(question, architecture)
    result = estimate(architecture, request)
    smallest = _smallest(architecture, request)
    card = wanted or (smallest.card if smallest is not None else None)
    fits = tuple(fit_on(architecture, on_card(request, each), each) for each in known_cards())
    longest, most = (None, None) if card is None else extent_on(architecture, request, card)
    return Calculation(
        model_id=found.model_id,
        found=found,
        architecture=architecture,
        question=question,
        request=request,
        estimate=result,
        card=card,
        fit=fit_on(architecture, request, card) if card is not None else None,
        smallest_card=smallest,
        machine=next((fit for fit in fits if fit.card.slug == THIS_MACHINE), None),
        longest=longest,
        largest_batch=most,
        recommendations=recommend(architecture, request, wanted),
        dtype_table=dtype_table(architecture, request),
        cards=fits,
        notes=(*result.notes, *_unused(question, architecture, request), *architecture.notes),
    )


def verdict_of(fit: CardFit) -> Verdict:
    """Comfortable with the headroom free, barely within the card's last bytes, or not."""
    if fit.fits:
        return "comfortable"
    return "barely" if fit.used_bytes <= fit.card.memory_bytes else "not"


def dtype_table(architecture: Architecture, request: Request) -> tuple[WeightsIn, ...]:
    """The weights in every format that makes sense for this model, largest first."""
    rows = []
    if architecture.quantisation is not None:
        rows.append(
            WeightsIn(
                "stored",
                f"as published: {architecture.quantisation.description}",
                weight_bytes(architecture, in_format(request, "stored")),
                request.weights == "stored",
            )
        )
    has_matrices = takes_quantised_weights(architecture)
    for name, item in WEIGHT_FORMATS.items():
        if item.is_quantised and not has_matrices:
            continue
        # GGUF files hold language models.
        if name in _GGUF and architecture.domain not in {"text", "multimodal"}:
            continue
        size = weight_bytes(architecture, in_format(request, name))
        rows.append(WeightsIn(name, item.description, size, request.weights == name))
    return tuple(sorted(rows, key=lambda row: -row.weight_bytes))


def extent_on(architecture: Architecture, request: Request, card: Card) -> tuple[Longest | None, int | None]:
    """The longest input and the largest batch on a card with its headroom free; None where not even one fits."""
    usable = fit_on(architecture, request, card).usable_bytes
    longest: Longest | None = None
    most: int | None = None
    unit = length_unit(architecture)
    try:
        if unit == "seconds":
            seconds = longest_take(architecture, request, usable)
            longest = Longest(min(seconds, MOST_SECONDS), unit, seconds >= MOST_SECONDS)
        elif unit == "tokens":
            tokens = longest_context(architecture, request, usable)
            longest = Longest(tokens, unit, tokens == architecture.shapes.max_context)
    except DoesNotFit:
        longest = None
    try:
        if knows_batches(architecture):
            most = min(largest_batch(architecture, request, usable), MOST_SEQUENCES)
    except DoesNotFit:
        most = None
    return longest, most


def _smallest(architecture: Architecture, request: Request) -> CardFit | None:
    try:
        return smallest_card(architecture, request.changed(device="cuda"))
    except DoesNotFit:
        return None


def _unused(question: Question, architecture: Architecture, request: Request) -> tuple[str, ...]:
    """What was asked and does not apply to this model, in words."""
    unit = length_unit(architecture)
    said = []
    if question.seq_length is not None and unit == "seconds":
        said.append("seq_length was left aside: music has a duration in seconds.")
    elif question.seq_length is not None and unit is None:
        said.append("seq_length was left aside: every input of this model has the same size.")
    if question.duration_seconds is not None and unit != "seconds":
        said.append("duration_seconds was left aside: this model makes no music.")
    if (
        request.weights in WEIGHT_FORMATS
        and WEIGHT_FORMATS[request.weights].is_quantised
        and not takes_quantised_weights(architecture)
    ):
        said.append(
            f"This model has no matrices that {request.weights} applies to; its weights stay in 16 bits."
        )
    return tuple(said)
