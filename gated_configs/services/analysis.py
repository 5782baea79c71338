"""A model over batch sizes and lengths: a grid of totals against a card, and what the grid says in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from django.contrib.auth.models import User

from gated_configs.memory import Architecture, Card, MemoryEstimate, Request, describe, estimate, fit_on
from gated_configs.memory.solve import CardFit
from gated_configs.services.calculation import Verdict, verdict_of
from gated_configs.services.insights import insights_of
from gated_configs.services.lookup import FoundConfig, find_config
from gated_configs.services.model_ids import normalised_id
from gated_configs.services.questions import (
    MOST_SECONDS,
    MOST_SEQUENCES,
    MOST_TOKENS,
    InvalidQuestion,
    LengthUnit,
    Question,
    card_of,
    check_question,
    length_unit,
    request_of,
)

MOST_ROWS: Final = 12
MOST_COLUMNS: Final = 12
_BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32)
_TOKENS: Final = (512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072, 262_144, 524_288, 1_048_576)
_SECONDS: Final = (5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0)


@dataclass(frozen=True)
class Cell:
    """One batch at one length. `verdict` is None without a card."""

    batch_size: int
    length: float | None
    estimate: MemoryEstimate
    verdict: Verdict | None

    @property
    def total_bytes(self) -> int:
        """What to plan for."""
        return self.estimate.total_bytes


@dataclass(frozen=True)
class Row:
    """One batch size at every length."""

    batch_size: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Analysis:
    """The grid. `lengths` holds one None where the model's input has one size."""

    model_id: str
    found: FoundConfig
    architecture: Architecture
    question: Question
    request: Request
    card: Card | None
    unit: LengthUnit | None
    batch_sizes: tuple[int, ...]
    lengths: tuple[float | None, ...]
    rows: tuple[Row, ...]
    insights: tuple[str, ...]


def analyse(
    *,
    user: User,
    model_id: str,
    question: Question,
    batch_sizes: tuple[int, ...] | None = None,
    lengths: tuple[float, ...] | None = None,
    seq_lengths: tuple[int, ...] | None = None,
    durations_seconds: tuple[float, ...] | None = None,
) -> Analysis:
    """Find the model's config and lay out the grid. Raises as `calculate` does.

    `lengths` are in the model's own unit; whoever cannot know it gives tokens and seconds apart.
    """
    model_id = normalised_id(model_id)
    check_question(question)
    card = card_of(question)
    _check_axis("batch_sizes", batch_sizes, MOST_ROWS, MOST_SEQUENCES)
    _check_axis("lengths", lengths, MOST_COLUMNS, MOST_TOKENS)
    _check_axis("seq_lengths", seq_lengths, MOST_COLUMNS, MOST_TOKENS)
    _check_axis("durations_seconds", durations_seconds, MOST_COLUMNS, MOST_SECONDS)
    found = find_config(user=user, model_id=model_id)
    architecture = describe(found.config)
    request = request_of(question, architecture)
    unit = length_unit(architecture)
    columns = _columns(
        architecture, unit, lengths or (durations_seconds if unit == "seconds" else seq_lengths)
    )
    rows = tuple(
        Row(size, tuple(_cell(architecture, request, size, length, unit, card) for length in columns))
        for size in sorted(set(batch_sizes or _BATCH_SIZES))
    )
    return Analysis(
        model_id=found.model_id,
        found=found,
        architecture=architecture,
        question=question,
        request=request,
        card=card,
        unit=unit,
        batch_sizes=tuple(row.batch_size for row in rows),
        lengths=columns,
        rows=rows,
        insights=insights_of(
            architecture,
            request,
            card,
            unit,
            batch_sizes=tuple(row.batch_size for row in rows),
            longest=columns[-1],
        ),
    )


def at_length(request: Request, length: float | None, unit: LengthUnit | None) -> Request:
    """The same request at another length."""
    if length is None or unit is None:
        return request
    if unit == "seconds":
        return request.changed(duration_seconds=float(length))
    return request.changed(context=int(length))


def _cell(
    architecture: Architecture,
    request: Request,
    batch_size: int,
    length: float | None,
    unit: LengthUnit | None,
    card: Card | None,
) -> Cell:
    asked = at_length(request.changed(batch=batch_size), length, unit)
    result = estimate(architecture, asked)
    verdict = None
    if card is not None:
        fit = fit_on(architecture, asked, card)
        verdict = verdict_of(CardFit(card, result.total_bytes, fit.usable_bytes))
    return Cell(batch_size, length, result, verdict)


def _columns(
    architecture: Architecture, unit: LengthUnit | None, lengths: tuple[float, ...] | None
) -> tuple[float | None, ...]:
    if unit is None:
        return (None,)
    if lengths:
        if unit == "seconds" and max(lengths) > MOST_SECONDS:
            raise InvalidQuestion("lengths", f"lengths are seconds of music here, at most {MOST_SECONDS:,}.")
        if unit == "tokens" and any(length != int(length) for length in lengths):
            raise InvalidQuestion("lengths", "lengths are whole numbers of tokens here.")
        return tuple(sorted({float(length) if unit == "seconds" else int(length) for length in lengths}))
    if unit == "seconds":
        return _SECONDS
    limit = architecture.shapes.max_context
    columns = [tokens for tokens in _TOKENS if not limit or tokens < limit]
    return tuple([*columns, limit] if limit else columns[:9])[-MOST_COLUMNS:]


def _check_axis(field: str, values: tuple[float, ...] | None, most_values: int, largest: float) -> None:
    if values is None:
        return
    if not 1 <= len(values) <= most_values:
        raise InvalidQuestion(field, f"{field} holds 1 to {most_values} numbers.")
    if any(isinstance(value, bool) or not 0 < value <= largest for value in values):
        raise InvalidQuestion(field, f"{field} are numbers above 0 and at most {largest:,}.")
