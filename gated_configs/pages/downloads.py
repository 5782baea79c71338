"""The three results as CSV: bytes whole and unrounded, one header, one row for each thing of a kind."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Final

from django.http import HttpResponse

from gated_configs.services.analysis import Analysis
from gated_configs.services.calculation import Calculation, verdict_of
from gated_configs.services.comparison import Comparison

#: A cell that begins with one of these is a formula to a spreadsheet.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")

_FIGURES: Final = (
    "model",
    "parameters",
    "active_parameters",
    "model_type",
    "attention_type",
    "weights",
    "cache",
    "activations",
    "batch_size",
    "tokens",
    "duration_seconds",
    "tensor_parallel",
    "weight_bytes",
    "cache_bytes",
    "activation_bytes",
    "overhead_bytes",
    "total_bytes",
    "low_total_bytes",
    "card",
    "card_bytes",
    "verdict",
    "smallest_card",
    "source",
    "error",
)


def calculation_csv(calculation: Calculation) -> HttpResponse:
    """One row."""
    return _download(_FIGURES, [_figures(calculation)], calculation.model_id)


def comparison_csv(comparison: Comparison) -> HttpResponse:
    """A row for each model; one that failed has its name and its error."""
    rows: list[Sequence[object]] = []
    for row in comparison.rows:
        if row.calculation is not None:
            rows.append(_figures(row.calculation))
        else:
            empty: list[object] = [""] * len(_FIGURES)
            empty[0], empty[-1] = row.text, row.error.sentence if row.error is not None else ""
            rows.append(empty)
    return _download(_FIGURES, rows, "comparison")


def analysis_csv(analysis: Analysis) -> HttpResponse:
    """A row for each cell of the grid."""
    header = (
        "model",
        "batch_size",
        "length",
        "length_unit",
        "weight_bytes",
        "cache_bytes",
        "activation_bytes",
        "overhead_bytes",
        "total_bytes",
        "card",
        "verdict",
    )
    rows = [
        (
            analysis.model_id,
            cell.batch_size,
            "" if cell.length is None else cell.length,
            analysis.unit or "",
            *cell.estimate.breakdown().values(),
            cell.total_bytes,
            analysis.card.name if analysis.card is not None else "",
            cell.verdict or "",
        )
        for row in analysis.rows
        for cell in row.cells
    ]
    return _download(header, rows, f"{analysis.model_id}-grid")


def _figures(calculation: Calculation) -> Sequence[object]:
    architecture, request, result = calculation.architecture, calculation.request, calculation.estimate
    card, fit, smallest = calculation.card, calculation.fit, calculation.smallest_card
    return (
        calculation.model_id,
        architecture.parameters.total,
        architecture.parameters.active,
        architecture.model_type,
        architecture.attention_type,
        request.weights,
        request.cache,
        request.activations,
        request.batch,
        result.tokens,
        request.duration_seconds if calculation.length_unit == "seconds" else "",
        request.tensor_parallel,
        *result.breakdown().values(),
        result.total_bytes,
        result.low_total_bytes,
        card.name if card is not None else "",
        card.memory_bytes if card is not None else "",
        verdict_of(fit) if fit is not None else "",
        smallest.card.name if smallest is not None else "",
        str(calculation.found.source),
        "",
    )


def _download(header: Sequence[str], rows: Iterable[Sequence[object]], name: str) -> HttpResponse:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows([_plain(value) for value in row] for row in rows)
    response = HttpResponse(text.getvalue(), content_type="text/csv; charset=utf-8")
    file_name = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)[:100]
    response["Content-Disposition"] = f'attachment; filename="memory-{file_name}.csv"'
    return response


def _plain(value: object) -> object:
    """Text that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
