"""Memory by batch and length as a table of cells: a figure, a verdict in a word and a sign, and a shade."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gated_configs.memory import Card, fit_on
from gated_configs.pages.asked import Asked
from gated_configs.pages.cards import SIGNS, WORDS
from gated_configs.pages.heading import Heading
from gated_configs.pages.source import SourceLine
from gated_configs.pages.units import (
    card_title,
    format_words,
    in_decimal,
    in_gigabytes,
    length_words,
    short_length,
    short_name,
)
from gated_configs.services.analysis import Analysis, Cell
from gated_configs.services.model_ids import hub_page
from gated_configs.wording import plain_number

#: Shades of the heat map, from the lightest; what does not fit has none of them.
LEVELS: Final = 9


@dataclass(frozen=True)
class GridCell:
    """One batch at one length."""

    figure: str
    unit: str
    level: str
    verdict: str
    sign: str
    word: str
    title: str
    address: str
    is_asked: bool


@dataclass(frozen=True)
class GridRow:
    """One batch size."""

    label: str
    cells: tuple[GridCell, ...]


@dataclass(frozen=True)
class Key:
    """One sign of the table in words."""

    verdict: str
    sign: str
    words: str


@dataclass(frozen=True)
class Grid(Heading):
    """The page of one analysis."""

    caption: str
    rows_name: str
    columns_name: str
    columns: tuple[str, ...]
    rows: tuple[GridRow, ...]
    key: tuple[Key, ...]
    insights: tuple[str, ...]
    source: SourceLine


def grid_of(analysis: Analysis, asked: Asked, words: tuple[str, ...], source: SourceLine) -> Grid:
    """Everything the page of one analysis says."""
    card = analysis.card
    most = max(cell.total_bytes for row in analysis.rows for cell in row.cells)
    full = card.memory_bytes if card is not None else most
    verdict, headline = _headline(analysis)
    batch_name = "variations" if analysis.unit == "seconds" else "batch"
    length_name = {"seconds": "seconds", "tokens": "tokens"}.get(str(analysis.unit), "input")
    formats = format_words(analysis.request, analysis.architecture)
    shown = [cell.verdict for row in analysis.rows for cell in row.cells]
    return Grid(
        model_id=analysis.model_id,
        model_page=hub_page(analysis.model_id),
        words=words,
        verdict=verdict,
        sign=SIGNS.get(verdict, "i-mark"),
        headline=headline,
        caption=f"Memory in GB at {formats}, by {batch_name} and {length_name}"
        + (f", against {card_title(card)}" if card is not None else ""),
        rows_name=batch_name,
        columns_name=length_name,
        columns=tuple(short_length(length, analysis.unit) for length in analysis.lengths),
        rows=tuple(
            GridRow(
                f"{row.batch_size:,}",
                tuple(_cell(cell, analysis, asked, full) for cell in row.cells),
            )
            for row in analysis.rows
        ),
        key=tuple(
            Key(name, SIGNS[name], words_of_key)
            for name, words_of_key in _key_words(card).items()
            if name in shown
        ),
        insights=analysis.insights,
        source=source,
    )


def _key_words(card: Card | None) -> dict[str, str]:
    if card is None:
        return {}
    return {
        "comfortable": "fits, with a tenth of the card left free",
        "barely": "barely fits, within the last tenth",
        "not": "does not fit",
    }


def _cell(cell: Cell, analysis: Analysis, asked: Asked, full: int) -> GridCell:
    verdict = str(cell.verdict or "")
    share = cell.total_bytes / full if full else 0.0
    level = "over" if verdict == "not" else str(min(LEVELS, max(1, 1 + int(share * LEVELS))))
    parts = ", ".join(
        f"{name} {in_decimal(size)}" for name, size in cell.estimate.breakdown().items() if size
    )
    changes = {"batch_size": str(cell.batch_size)}
    is_asked = cell.batch_size == analysis.request.batch
    if cell.length is not None:
        name = "duration_seconds" if analysis.unit == "seconds" else "seq_length"
        changes[name] = plain_number(cell.length)
        wanted = analysis.request.duration_seconds if analysis.unit == "seconds" else analysis.request.context
        is_asked = is_asked and wanted == cell.length
    return GridCell(
        figure=in_gigabytes(cell.total_bytes),
        unit=" GB",
        level=level,
        verdict=verdict,
        sign=SIGNS.get(verdict, ""),
        word=WORDS.get(verdict, ""),
        title=f"{in_decimal(cell.total_bytes)}: {parts}",
        address=asked.changed(action="calculate", options=changes).address,
        is_asked=is_asked,
    )


def _headline(analysis: Analysis) -> tuple[str, str]:
    """What the card holds at most, in one sentence."""
    name, card, unit = short_name(analysis.model_id), analysis.card, analysis.unit
    cells = [cell for row in analysis.rows for cell in row.cells]
    if card is None:
        least, most = cells[0].total_bytes, max(cell.total_bytes for cell in cells)
        return "", f"{name} needs from {in_decimal(least)} to {in_decimal(most)}"
    title = card_title(card)
    fitting = [cell for cell in cells if cell.verdict == "comfortable"]
    if not fitting:
        usable = fit_on(analysis.architecture, analysis.request, card).usable_bytes
        least = min(cell.total_bytes for cell in cells)
        return "not", (
            f"{name} does not fit {title}: it needs {in_decimal(least)} at the least,"
            f" and {in_decimal(usable)} can be planned with"
        )
    longest = max(
        (cell for cell in fitting if cell.batch_size == min(each.batch_size for each in fitting)),
        key=lambda cell: cell.length or 0,
    )
    widest = max(fitting, key=lambda cell: (cell.batch_size, cell.length or 0))
    noun = "variation" if unit == "seconds" else "sequence" if unit == "tokens" else "input"
    if unit is None or longest.length is None or widest.length is None:
        return (
            "comfortable",
            f"{name} on {title}: up to {_count(widest.batch_size, noun)} of those shown at once",
        )
    if len(fitting) == len(cells):
        return "comfortable", f"{name} fits {title} in every case shown"
    return "comfortable", (
        f"{name} on {title}: {_count(longest.batch_size, noun)} of {length_words(longest.length, unit)},"
        f" or {_count(widest.batch_size, noun)} of {length_words(widest.length, unit)}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
