"""Several models side by side, one scale for all bars; a model that failed keeps its row and says why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gated_configs.memory import CardFit
from gated_configs.pages.asked import Asked
from gated_configs.pages.bars import Bar, memory_bar
from gated_configs.pages.cards import SIGNS, WORDS, bare_name
from gated_configs.pages.figures import type_words_of
from gated_configs.pages.units import (
    card_title,
    extent_words,
    format_words,
    in_binary,
    in_decimal,
    length_words,
    short_name,
)
from gated_configs.refusals import Refusal
from gated_configs.services.calculation import Calculation, verdict_of
from gated_configs.services.comparison import Comparison, ComparisonRow
from gated_configs.services.questions import THIS_MACHINE

KEY: Final = (
    ("weights", "Weights"),
    ("cache", "Cache"),
    ("activations", "Activations"),
    ("overhead", "Overhead"),
)
_NO_BAR: Final = Bar((), "")


@dataclass(frozen=True)
class Standing:
    """How a model meets the card."""

    verdict: str
    sign: str
    word: str
    spare: str


@dataclass(frozen=True)
class ComparedRow:
    """One model, or why there are no figures of it."""

    name: str
    without: str
    error: str = ""
    sign: str = ""
    paste_address: str = ""
    is_waiting: bool = False
    address: str = ""
    words: str = ""
    parameters: str = ""
    parameters_note: str = ""
    bar: Bar = _NO_BAR
    parts: str = ""
    total: str = ""
    total_gib: str = ""
    standing: Standing | None = None
    limit: str = ""
    limit_note: str = ""


@dataclass(frozen=True)
class Compared:
    """The page of one comparison. `card_name` heads the verdicts; empty where there is no card to hold them against."""

    verdict: str
    headline: str
    asked_line: str
    card_name: str
    limit_name: str
    rows: tuple[ComparedRow, ...]
    error_columns: int
    key: tuple[tuple[str, str], ...] = KEY


def compared_of(comparison: Comparison, asked: Asked, *, waiting: str = "") -> Compared:
    """Everything the page of one comparison says. `waiting` is the model whose config is asked for just now."""
    done = [row.calculation for row in comparison.rows if row.calculation is not None]
    card = comparison.card
    full = max((each.estimate.total_bytes for each in done), default=0)
    has_machine = card is None and any(each.machine is not None for each in done)
    card_name = card.name if card is not None else "This machine" if has_machine else ""
    if card is not None and card.slug == THIS_MACHINE:
        card_name = "This machine"
    failed = len(comparison.rows) - len(done)
    return Compared(
        verdict="comfortable" if done else "not",
        headline=_headline(comparison, done),
        asked_line=f"{len(comparison.rows)} model{'' if len(comparison.rows) == 1 else 's'}"
        + (f", {failed} without figures" if failed and done else ""),
        card_name=card_name,
        limit_name="Longest" if card is not None else "Smallest card",
        rows=tuple(_row(row, comparison, asked, full, waiting) for row in comparison.rows),
        error_columns=5 if card_name else 4,
    )


def _headline(comparison: Comparison, done: list[Calculation]) -> str:
    card = comparison.card
    if not done:
        return "No figures yet: see what each model needs"
    if len(done) == 1 and len(comparison.rows) == 1:
        only = done[0]
        return f"{short_name(only.model_id)} needs {in_decimal(only.estimate.total_bytes)}; add another model to compare"
    ordered = sorted(done, key=lambda each: each.estimate.total_bytes)
    least, most = ordered[0], ordered[-1]
    if card is not None:
        fitting = sum(1 for each in done if each.fit is not None and each.fit.fits)
        known = "" if len(done) == len(comparison.rows) else " with figures"
        some = f"{fitting} of {len(done)}{known}"
        how_many = "All" if fitting == len(done) and not known else "None" if not fitting else some
        verb = "fits" if fitting == 1 and how_many == some else "fit"
        return (
            f"{how_many} {verb} {card_title(card)}; {short_name(least.model_id)} needs the least,"
            f" {in_decimal(least.estimate.total_bytes)}"
        )
    return (
        f"From {in_decimal(least.estimate.total_bytes)} for {short_name(least.model_id)}"
        f" to {in_decimal(most.estimate.total_bytes)} for {short_name(most.model_id)}"
    )


def _row(row: ComparisonRow, comparison: Comparison, asked: Asked, full: int, waiting: str) -> ComparedRow:
    without = asked.changed(models=tuple(model for model in asked.models if model != row.text)).address
    if row.calculation is None:
        refusal = row.error
        assert refusal is not None
        model_id = str(refusal.facts.get("model_id") or row.text)
        needs = refusal.requires_config
        return ComparedRow(
            name=short_name(model_id) if refusal.facts.get("model_id") else row.text,
            words=row.text if refusal.facts.get("model_id") else "",
            without=without,
            error=what_happened(refusal) if needs else refusal.sentence,
            sign="i-lock" if needs else "i-warn",
            paste_address=asked.changed(panel=model_id).address if needs else "",
            is_waiting=needs and model_id == waiting,
        )
    each = row.calculation
    limit, limit_note = _limit(each, comparison)
    fit = each.fit if comparison.card is not None else each.machine
    return ComparedRow(
        name=short_name(each.model_id),
        without=without,
        address=asked.changed(action="calculate", models=(each.model_id,)).address,
        words=" · ".join(
            [
                each.model_id,
                *type_words_of(each.architecture)[:2],
                format_words(each.request, each.architecture),
                extent_words(each.request, each.architecture, each.estimate),
                _source_words(each),
            ]
        ),
        parameters=f"{each.architecture.parameters.total:,}",
        parameters_note=f"{each.architecture.parameters.active:,} active"
        if each.architecture.parameters.active != each.architecture.parameters.total
        else "",
        bar=memory_bar(each.estimate, None, full_bytes=full),
        parts=" + ".join(in_decimal(size) for size in each.estimate.breakdown().values() if size),
        total=in_decimal(each.estimate.total_bytes),
        total_gib=in_binary(each.estimate.total_bytes),
        standing=_standing(fit),
        limit=limit,
        limit_note=limit_note,
    )


def what_happened(refusal: Refusal) -> str:
    """A failed look-up without its next step: where the page itself offers that step."""
    return refusal.sentence.removesuffix(str(refusal.facts.get("next_step") or "")).strip()


def _source_words(each: Calculation) -> str:
    return {
        "own": "your config",
        "shared": "shared config",
        "builtin": "built in",
        "hub": "from the hub",
    }[str(each.found.source)]


def _standing(fit: CardFit | None) -> Standing | None:
    if fit is None:
        return None
    verdict = verdict_of(fit)
    spare = fit.card.memory_bytes - fit.used_bytes
    words = f"{in_decimal(spare)} free" if spare >= 0 else f"{in_decimal(-spare)} too much"
    return Standing(verdict, SIGNS[verdict], WORDS[verdict], words)


def _limit(each: Calculation, comparison: Comparison) -> tuple[str, str]:
    """What is most on the card, or the smallest card where none is chosen."""
    if comparison.card is None:
        smallest = each.smallest_card
        return (bare_name(smallest.card.name) if smallest is not None else "none in the list"), ""
    longest, most = each.longest, each.largest_batch
    at_once = f"{most:,} at once" if most is not None else ""
    if longest is None:
        return at_once if each.length_unit is None and at_once else "nothing fits", ""
    return length_words(longest.value, longest.unit), f"or {at_once}" if at_once else ""
