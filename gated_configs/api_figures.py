"""Shapes of the answers with figures, of the JSON API and of the command's --json. No logic beyond reading results."""

from __future__ import annotations

from typing import Any, Literal

from ninja import Schema
from pydantic import Field

from gated_configs.api_schemas import SourceName
from gated_configs.memory import Card, CardFit, MemoryEstimate
from gated_configs.services.analysis import Analysis, Cell
from gated_configs.services.calculation import Calculation, verdict_of
from gated_configs.services.comparison import ComparisonRow

VerdictName = Literal["comfortable", "barely", "not"]


class SizeOut(Schema):
    """A size in bytes, in GB (10^9) and in GiB (2^30)."""

    bytes: int
    gb: float
    gib: float

    @classmethod
    def of(cls, size_bytes: int) -> SizeOut:
        """The same size in all three."""
        return cls(bytes=size_bytes, gb=round(size_bytes / 1e9, 3), gib=round(size_bytes / 2**30, 3))


class BreakdownOut(Schema):
    """Where the memory goes, on one card. `total` is the sum of the first four; cache that of its three parts."""

    weights: SizeOut
    cache: SizeOut
    activations: SizeOut = Field(description="At the most; activations_low at the least.")
    overhead: SizeOut = Field(description="The process and the device's runtime, once.")
    total: SizeOut
    key_value: SizeOut
    state: SizeOut = Field(description="Of recurrent layers and their convolutions.")
    cross: SizeOut = Field(description="Of cross-attention.")
    activations_low: SizeOut
    total_low: SizeOut

    @classmethod
    def of(cls, estimate: MemoryEstimate) -> BreakdownOut:
        """Read an estimate."""
        parts = {
            **estimate.breakdown(),
            "total": estimate.total_bytes,
            "key_value": estimate.key_value_bytes,
            "state": estimate.state_bytes,
            "cross": estimate.cross_bytes,
            "activations_low": estimate.activations.low_bytes,
            "total_low": estimate.low_total_bytes,
        }
        return cls(**{name: SizeOut.of(size) for name, size in parts.items()})


class CardOut(Schema):
    """A card."""

    gpu: str
    name: str
    memory_bytes: int

    @classmethod
    def of(cls, card: Card) -> CardOut:
        """Read a card."""
        return cls(gpu=card.slug, name=card.name, memory_bytes=card.memory_bytes)


class FitOut(CardOut):
    """How the question meets a card. `usable_bytes` leaves a tenth free."""

    used_bytes: int
    usable_bytes: int
    fits: bool
    verdict: VerdictName

    @classmethod
    def of_fit(cls, fit: CardFit) -> FitOut:
        """Read a fit."""
        return cls(
            **CardOut.of(fit.card).model_dump(),
            used_bytes=fit.used_bytes,
            usable_bytes=fit.usable_bytes,
            fits=fit.fits,
            verdict=verdict_of(fit),
        )


class LongestOut(Schema):
    """The longest context or take that fits."""

    value: int | float
    unit: Literal["tokens", "seconds"]
    is_models_limit: bool = Field(description="Whether the model ends there, rather than the memory.")


class RecommendationOut(Schema):
    """One piece of advice."""

    code: str
    sentence: str


class WeightsOut(Schema):
    """The weights in one format."""

    precision: str
    description: str
    bytes: int
    is_chosen: bool


class FiguresOut(Schema):
    """What is the same for every answer about one model."""

    model_id: str
    source: SourceName
    source_detail: str
    model_type: str
    attention_type: str
    parameter_count: int
    active_parameter_count: int = Field(description="Those that one token passes through.")
    precision: str
    cache_precision: str
    activation_precision: str
    batch_size: int
    seq_length: int | None = Field(description="Null where length is not counted in tokens.")
    duration_seconds: float | None
    memory_breakdown: BreakdownOut
    total_bytes: int
    total_gb: float
    total_gib: float
    cache_bytes_per_token: int = Field(description="What one more token adds to one sequence.")
    gpu: FitOut | None = Field(description="The card that was asked for, else the smallest that it fits.")
    longest: LongestOut | None = Field(description="On that card, at this batch.")
    largest_batch: int | None = Field(description="On that card, at this length.")
    notes: list[str]

    @staticmethod
    def facts_of(found: Calculation) -> dict[str, Any]:
        """The fields of a calculation by name."""
        request, estimate, parameters = found.request, found.estimate, found.architecture.parameters
        total = SizeOut.of(estimate.total_bytes)
        longest = found.longest
        return {
            "model_id": found.model_id,
            "source": found.found.source.value,
            "source_detail": found.found.source_sentence,
            "model_type": found.architecture.model_type,
            "attention_type": found.architecture.attention_type,
            "parameter_count": parameters.total,
            "active_parameter_count": parameters.active,
            "precision": request.weights,
            "cache_precision": request.cache,
            "activation_precision": request.activations,
            "batch_size": request.batch,
            "seq_length": request.context if found.length_unit == "tokens" else None,
            "duration_seconds": request.duration_seconds if found.length_unit == "seconds" else None,
            "memory_breakdown": BreakdownOut.of(estimate),
            "total_bytes": total.bytes,
            "total_gb": total.gb,
            "total_gib": total.gib,
            "cache_bytes_per_token": estimate.cache_bytes_per_token,
            "gpu": FitOut.of_fit(found.fit) if found.fit is not None else None,
            "longest": LongestOut(
                value=longest.value, unit=longest.unit, is_models_limit=longest.is_models_limit
            )
            if longest is not None
            else None,
            "largest_batch": found.largest_batch,
            "notes": list(found.notes),
        }


class CalculateOut(FiguresOut):
    """Everything about one model and one question."""

    smallest_card: FitOut | None
    machine: FitOut | None = Field(description="The studio's own machine.")
    cards: list[FitOut]
    weights_by_precision: list[WeightsOut]
    recommendations: list[RecommendationOut] = Field(description="The verdict first.")

    @classmethod
    def of(cls, found: Calculation) -> CalculateOut:
        """Read a calculation."""
        return cls(
            **FiguresOut.facts_of(found),
            smallest_card=FitOut.of_fit(found.smallest_card) if found.smallest_card is not None else None,
            machine=FitOut.of_fit(found.machine) if found.machine is not None else None,
            cards=[FitOut.of_fit(fit) for fit in found.cards],
            weights_by_precision=[
                WeightsOut(
                    precision=row.name,
                    description=row.description,
                    bytes=row.weight_bytes,
                    is_chosen=row.is_chosen,
                )
                for row in found.dtype_table
            ],
            recommendations=[
                RecommendationOut(code=each.code, sentence=each.sentence) for each in found.recommendations
            ],
        )


class CellOut(Schema):
    """One batch at one length."""

    batch_size: int
    length: int | float | None
    total_bytes: int
    total_low_bytes: int
    cache_bytes: int
    activations_bytes: int
    verdict: VerdictName | None = Field(description="Null without a gpu.")

    @classmethod
    def of(cls, cell: Cell) -> CellOut:
        """Read a cell."""
        return cls(
            batch_size=cell.batch_size,
            length=cell.length,
            total_bytes=cell.total_bytes,
            total_low_bytes=cell.estimate.low_total_bytes,
            cache_bytes=cell.estimate.cache_bytes,
            activations_bytes=cell.estimate.activations.high_bytes,
            verdict=cell.verdict,
        )


class AnalyzeOut(Schema):
    """A grid of totals: a row for each batch size, a cell for each length."""

    model_id: str
    source: SourceName
    source_detail: str
    model_type: str
    attention_type: str
    parameter_count: int
    precision: str
    cache_precision: str
    activation_precision: str
    gpu: CardOut | None
    length_unit: Literal["tokens", "seconds"] | None = Field(
        description="Null where every input of the model has the same size."
    )
    batch_sizes: list[int]
    lengths: list[int | float | None]
    weights_bytes: int
    grid: list[list[CellOut]]
    insights: list[str]

    @classmethod
    def of(cls, found: Analysis) -> AnalyzeOut:
        """Read an analysis."""
        return cls(
            model_id=found.model_id,
            source=found.found.source.value,
            source_detail=found.found.source_sentence,
            model_type=found.architecture.model_type,
            attention_type=found.architecture.attention_type,
            parameter_count=found.architecture.parameters.total,
            precision=found.request.weights,
            cache_precision=found.request.cache,
            activation_precision=found.request.activations,
            gpu=CardOut.of(found.card) if found.card is not None else None,
            length_unit=found.unit,
            batch_sizes=list(found.batch_sizes),
            lengths=list(found.lengths),
            weights_bytes=found.rows[0].cells[0].estimate.weight_bytes,
            grid=[[CellOut.of(cell) for cell in row.cells] for row in found.rows],
            insights=list(found.insights),
        )


class ComparedModelOut(FiguresOut):
    """A model of a comparison."""

    model: str = Field(description="As it was named in the request.")
    error: None = None
    error_code: None = None
    requires_config: Literal[False] = False
    config_submission_url: None = None


class ComparedErrorOut(Schema):
    """A model of a comparison that has no figures, and why."""

    model: str = Field(description="As it was named in the request.")
    model_id: str | None
    error: str
    error_code: str
    requires_config: bool
    config_submission_url: str | None


def compared(row: ComparisonRow) -> ComparedModelOut | ComparedErrorOut:
    """Read a row."""
    if row.calculation is not None:
        return ComparedModelOut(model=row.text, **FiguresOut.facts_of(row.calculation))
    assert row.error is not None
    return ComparedErrorOut(
        model=row.text,
        model_id=row.error.facts.get("model_id"),
        error=row.error.sentence,
        error_code=row.error.code,
        requires_config=row.error.requires_config,
        config_submission_url=row.error.facts.get("config_submission_url"),
    )


class CompareOut(Schema):
    """One row for each model, in the order of the request."""

    models: list[ComparedModelOut | ComparedErrorOut]
