"""One model's figures as its page shows them: every number is a string, every width an attribute."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from gated_configs.memory import Architecture, estimate, fit_on
from gated_configs.pages.asked import Asked
from gated_configs.pages.bars import Bar, memory_bar
from gated_configs.pages.cards import SIGNS, WORDS, CardLine, bare_name, card_lines, near_and_far
from gated_configs.pages.heading import Heading
from gated_configs.pages.layers import Layers, layers_of
from gated_configs.pages.source import SourceLine
from gated_configs.pages.units import (
    card_title,
    extent_words,
    format_words,
    in_binary,
    in_decimal,
    in_words,
    length_words,
    percent,
    share_words,
    short_name,
    tokens_words,
)
from gated_configs.services.calculation import Calculation, verdict_of
from gated_configs.services.model_ids import hub_page
from gated_configs.services.questions import THIS_MACHINE, request_of

#: A config of hundreds of kilobytes is lists of classes and labels: its beginning tells what it is.
MAX_SHOWN_CHARACTERS: Final = 40_000

_PART_LABELS: Final = {
    "embeddings": "Embeddings",
    "attention": "Attention",
    "recurrent": "Recurrent",
    "mlp": "Feed-forward",
    "convolution": "Convolution",
    "experts": "Experts",
    "router": "Router",
    "norms": "Norms",
    "head": "Head",
    "vision": "Vision tower",
    "audio": "Audio tower",
    "text": "Text encoder",
    "codec": "Codec",
    "projector": "Projector",
    "other": "Other",
}


@dataclass(frozen=True)
class BreakdownRow:
    """One part of the total, or the total."""

    name: str
    label: str
    note: str
    gigabytes: str
    gibibytes: str
    share: str = ""


@dataclass(frozen=True)
class Tile:
    """One answer to a question asked backwards."""

    label: str
    value: str
    note: str = ""
    is_wide: bool = False


@dataclass(frozen=True)
class DtypeLine:
    """The weights in one format, and the total that it leads to."""

    name: str
    meaning: str
    weights: str
    weights_gib: str
    total: str
    verdict: str
    sign: str
    word: str
    address: str
    is_chosen: bool


@dataclass(frozen=True)
class PartLine:
    """One part of the parameters."""

    label: str
    value: str
    width: float


@dataclass(frozen=True)
class CountLine:
    """Another way to count."""

    meaning: str
    value: str


@dataclass(frozen=True)
class Figures(Heading):
    """The page of one calculation."""

    bar: Bar
    parts: tuple[BreakdownRow, ...]
    total: BreakdownRow
    tiles: tuple[Tile, ...]
    advice: tuple[str, ...]
    cards: tuple[CardLine, ...]
    other_cards: tuple[CardLine, ...]
    card_name: str
    dtypes: tuple[DtypeLine, ...]
    parameters: str
    parameter_parts: tuple[PartLine, ...]
    convention: str
    counts: tuple[CountLine, ...]
    layers: Layers | None
    notes: tuple[str, ...]
    source: SourceLine
    config_text: str
    config_line: str


def figures_of(calculation: Calculation, asked: Asked, source: SourceLine) -> Figures:
    """Everything the page of one model says."""
    architecture, result = calculation.architecture, calculation.estimate
    fit = calculation.fit
    verdict = verdict_of(fit) if fit is not None else "not"
    parameters = architecture.parameters
    near, far = near_and_far(card_lines(calculation, asked))
    config_text = json.dumps(calculation.found.config, indent=2, ensure_ascii=False)
    return Figures(
        model_id=calculation.model_id,
        model_page=hub_page(calculation.model_id),
        words=type_words_of(architecture),
        verdict=verdict,
        sign=SIGNS[verdict],
        headline=headline_of(calculation),
        bar=memory_bar(result, calculation.card),
        parts=tuple(_breakdown(calculation)),
        total=_total(calculation),
        tiles=tuple(_tiles(calculation)),
        # The first is the verdict, which the headline says.
        advice=tuple(item.sentence for item in calculation.recommendations[1:]),
        cards=near,
        other_cards=far,
        card_name=calculation.card.name if calculation.card is not None else "",
        dtypes=tuple(_dtypes(calculation, asked)),
        parameters=f"{parameters.total:,}",
        parameter_parts=tuple(_parameter_parts(parameters.parts)),
        convention=f"{parameters.convention[:1].upper()}{parameters.convention[1:]}.",
        counts=tuple(
            CountLine(f"{count.meaning[:1].upper()}{count.meaning[1:]}", f"{count.value:,}")
            for count in parameters.counts
            if count.value != parameters.total
        ),
        layers=layers_of(architecture, result),
        notes=tuple(_notes(calculation)),
        source=source,
        config_text=config_text[:MAX_SHOWN_CHARACTERS],
        config_line=_config_line(calculation.found.config, len(config_text)),
    )


def type_words_of(architecture: Architecture) -> tuple[str, ...]:
    """What kind of model it is, for its badges."""
    words = [architecture.domain if architecture.music is not None else architecture.model_type]
    if architecture.attention_type != "none":
        words.append(architecture.attention_type.upper())
    if architecture.parameters.experts:
        words.append(
            f"{architecture.parameters.experts_per_token} of {architecture.parameters.experts} experts"
        )
    if architecture.is_remote_code:
        words.append("remote code, not run")
    return tuple(words)


def needs_words(calculation: Calculation) -> str:
    """ "Llama 3.1 8B needs 17.4 GB at bf16 and 8,192 tokens"."""
    request, result = calculation.request, calculation.estimate
    each = f" on each of {request.tensor_parallel:,} cards" if request.tensor_parallel > 1 else ""
    formats = format_words(request, calculation.architecture)
    extent = extent_words(request, calculation.architecture, result)
    return f"{short_name(calculation.model_id)} needs {in_decimal(result.total_bytes)}{each} at {formats} and {extent}"


def headline_of(calculation: Calculation) -> str:
    """The answer in one sentence."""
    needs, card, fit = needs_words(calculation), calculation.card, calculation.fit
    if card is None or fit is None:
        return f"{needs}; no single card in the list has that much."
    title = card_title(card)
    verdict = verdict_of(fit)
    if verdict == "not":
        return f"{needs}; {in_decimal(fit.used_bytes - card.memory_bytes)} too much for {title}."
    spare = in_decimal(card.memory_bytes - fit.used_bytes)
    if verdict == "barely":
        return f"{needs}; barely fits {title}, with only {spare} to spare."
    return f"{needs}; fits {title} with {spare} to spare."


def _breakdown(calculation: Calculation) -> Iterable[BreakdownRow]:
    result, request = calculation.estimate, calculation.request
    total = result.total_bytes
    notes = {
        "weights": format_words(request, calculation.architecture),
        "cache": _cache_note(calculation),
        "activations": _activations_note(calculation),
        "overhead": "the process and its libraries"
        if request.device == "cpu"
        else "the card’s own: context, kernels, workspaces",
    }
    for name, size in result.breakdown().items():
        yield BreakdownRow(
            name, name.capitalize(), notes[name], in_decimal(size), in_binary(size), share_words(size, total)
        )


def _activations_note(calculation: Calculation) -> str:
    known = calculation.estimate.activations
    if known.low_bytes == known.high_bytes:
        return calculation.request.activations
    return f"{calculation.request.activations}, at most; {in_decimal(known.low_bytes)} at the least"


def _cache_note(calculation: Calculation) -> str:
    result, architecture = calculation.estimate, calculation.architecture
    if not architecture.has_cache:
        return "none: nothing is kept from step to step"
    parts = []
    if result.cache_bytes_per_token:
        parts.append(f"{calculation.request.cache}, {in_decimal(result.cache_bytes_per_token)} a token")
    if result.state_bytes:
        parts.append(f"{in_decimal(result.state_bytes)} of fixed state")
    if result.cross_bytes:
        parts.append(f"{in_decimal(result.cross_bytes)} for the encoder’s output")
    if calculation.architecture.music is not None and calculation.request.guidance:
        parts.append("doubled by guidance")
    return " · ".join(parts)


def _total(calculation: Calculation) -> BreakdownRow:
    result = calculation.estimate
    note = ""
    if result.low_total_bytes < result.total_bytes:
        note = f"at the least {in_decimal(result.low_total_bytes)}"
    return BreakdownRow("total", "Total", note, in_decimal(result.total_bytes), in_binary(result.total_bytes))


def _tiles(calculation: Calculation) -> Iterable[Tile]:
    parameters = calculation.architecture.parameters
    active = ""
    if parameters.active != parameters.total:
        active = f"{parameters.active:,} active a token"
    yield Tile("Parameters", f"{parameters.total:,}", active or in_words(parameters.total), is_wide=True)
    card = calculation.card
    on_card = ""
    if card is not None:
        on_card = "on this machine" if card.slug == THIS_MACHINE else f"on the {bare_name(card.name)}"
    longest = calculation.longest
    if calculation.length_unit is not None:
        label = "Longest context" if calculation.architecture.has_cache else "Longest input"
        if calculation.length_unit == "seconds":
            label = "Longest take"
        if longest is None:
            yield Tile(label, "none", on_card)
        else:
            limit = (
                "the model’s own limit" if longest.is_models_limit and longest.unit == "tokens" else on_card
            )
            yield Tile(label, length_words(longest.value, longest.unit), limit)
    batch_label = "Most variations" if calculation.length_unit == "seconds" else "Largest batch"
    most = calculation.largest_batch
    yield Tile(batch_label, f"{most:,}" if most is not None else "none", on_card)
    smallest = calculation.smallest_card
    if smallest is None:
        yield Tile("Smallest card", "none in the list", "use several, or a smaller precision")
    else:
        yield Tile("Smallest card", bare_name(smallest.card.name), "with a tenth left free")
    machine = calculation.machine
    if machine is not None:
        word = WORDS[verdict_of(machine)]
        yield Tile(
            "This machine",
            word,
            f"{in_decimal(machine.used_bytes)} of {in_decimal(machine.card.memory_bytes)}",
        )


def _dtypes(calculation: Calculation, asked: Asked) -> Iterable[DtypeLine]:
    architecture, card = calculation.architecture, calculation.card
    for row in calculation.dtype_table:
        # As a person would ask for it: cache and activations follow the weights unless they are chosen.
        request = request_of(replace(calculation.question, precision=row.name), architecture)
        request = request.changed(device=calculation.request.device)
        total = estimate(architecture, request).total_bytes
        verdict: str = ""
        if card is not None:
            verdict = verdict_of(fit_on(architecture, request, card))
        yield DtypeLine(
            name="as published" if row.name == "stored" else row.name,
            meaning=row.description,
            weights=in_decimal(row.weight_bytes),
            weights_gib=in_binary(row.weight_bytes),
            total=in_decimal(total),
            verdict=verdict,
            sign=SIGNS.get(verdict, ""),
            word=WORDS.get(verdict, ""),
            address=asked.changed(options={"precision": row.name}).address,
            is_chosen=row.is_chosen,
        )


def _parameter_parts(parts: dict[str, int]) -> Iterable[PartLine]:
    largest = max(parts.values(), default=0)
    for name, value in sorted(parts.items(), key=lambda item: -item[1]):
        if value:
            yield PartLine(_PART_LABELS.get(name, name), f"{value:,}", percent(value, largest))


def _notes(calculation: Calculation) -> Iterable[str]:
    architecture, result = calculation.architecture, calculation.estimate
    yield f"Built from the config alone: {architecture.built_from}."
    if architecture.is_remote_code:
        yield "This family is published only as code in its repository. That code was not run."
    if architecture.quantisation is not None:
        yield f"Published quantised: {architecture.quantisation.description}."
    if architecture.shapes.max_context and calculation.length_unit == "tokens":
        yield f"The config allows {tokens_words(architecture.shapes.max_context)} a sequence."
    for sentence in (*result.activations.assumptions, *calculation.notes):
        text = sentence[:1].upper() + sentence[1:]
        yield text if text.endswith((".", "!", "?")) else f"{text}."


def _config_line(config: dict[str, Any], characters: int) -> str:
    fields = f"{len(config):,} fields"
    return f"{fields}, its beginning" if characters > MAX_SHOWN_CHARACTERS else fields
