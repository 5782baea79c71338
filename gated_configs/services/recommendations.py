"""What to change, or what more would fit: sentences that hold for this very request, each with a stable code.

Every figure is computed for the change that its sentence names; nothing is advised that was not estimated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gated_configs.memory import (
    WEIGHT_FORMATS,
    Architecture,
    Card,
    DoesNotFit,
    Request,
    estimate,
    find_card,
    fit_on,
    largest_batch,
    longest_context,
    longest_take,
    smallest_card,
)
from gated_configs.services.questions import THIS_MACHINE, knows_batches, length_unit
from gated_configs.wording import gigabytes, plain_number

#: From wide to narrow: what an operator would choose in turn, one format for each width.
_WEIGHTS: Final = ("fp32", "bf16", "int8", "nf4")
_CACHES: Final = ("bf16", "int8", "int4")
#: Formats of one width that are wide enough to be no loss.
_WIDTH: Final = {"fp32": 0, "bf16": 1, "fp16": 1, "fp8": 2, "int8": 2, "q8_0": 2}
#: Two machines with eight cards each: more is no longer a choice between cards.
_MOST_CARDS: Final = 16
#: A cache this much of the whole is worth a word.
_WORTH_A_WORD: Final = 0.2
#: A shorter input than this is no answer to anybody's question.
_LEAST_TOKENS: Final = 64
_SEVERAL: Final = "h100"


@dataclass(frozen=True)
class Recommendation:
    """One piece of advice: a `code` that stays, and a sentence with its figures."""

    code: str
    sentence: str


def recommend(architecture: Architecture, request: Request, card: Card | None) -> tuple[Recommendation, ...]:
    """Advice for a request on a card, or on none that was chosen; the verdict comes first."""
    return tuple(Recommendation(code, sentence) for code, sentence in _advice(architecture, request, card))


def in_format(request: Request, weights: str) -> Request:
    """The same request with other weights; cache and activations follow them unless they were chosen apart."""
    usual = Request(weights=request.weights)
    follows = request.activations == usual.activations
    changed = request.changed(weights=weights, activations="" if follows else request.activations)
    return changed.changed(cache="") if request.cache == usual.cache else changed


def takes_quantised_weights(architecture: Architecture) -> bool:
    """Whether a quantiser finds matrices to take: codecs and convolutions have none."""
    request = Request(weights="bf16")
    narrow = estimate(architecture, in_format(request, "nf4")).weight_bytes
    return narrow < estimate(architecture, request).weight_bytes


def _advice(architecture: Architecture, request: Request, card: Card | None) -> Iterator[tuple[str, str]]:
    if card is None:
        yield from _without_card(architecture, request)
    else:
        fit = fit_on(architecture, request, card)
        size, whole = gigabytes(fit.used_bytes), gigabytes(card.memory_bytes)
        where = _named(card, request)
        if fit.fits:
            left = gigabytes(card.memory_bytes - fit.used_bytes)
            yield "FITS", f"It fits on {where}: {size} of {whole}, and {left} stay free."
            yield from _more(architecture, request, card, fit.usable_bytes)
        else:
            if fit.used_bytes <= card.memory_bytes:
                yield (
                    "FITS_BARELY",
                    f"It fits on {where} only just: {size} of {whole}. Fragmentation, or anything else on"
                    " it, can end it.",
                )
            else:
                yield (
                    "DOES_NOT_FIT",
                    f"It does not fit on {where}: {size} are needed, and it has {whole}.",
                )
            yield from _ways_out(architecture, request, card, fit.usable_bytes)
    yield from _always(architecture, request)


def _without_card(architecture: Architecture, request: Request) -> Iterator[tuple[str, str]]:
    try:
        yield "SMALLEST_CARD", f"The least of the list that it fits on is {_smallest(architecture, request)}."
    except DoesNotFit:
        card = find_card(_SEVERAL)
        yield "NO_SINGLE_CARD", "It fits on no single card of the list."
        usable = fit_on(architecture, request, card).usable_bytes
        yield from _more_cards(architecture, request, card, usable)


def _more(architecture: Architecture, request: Request, card: Card, usable: int) -> Iterator[tuple[str, str]]:
    """What else would fit where the request fits."""
    unit = length_unit(architecture)
    most = largest_batch(architecture, request, usable) if knows_batches(architecture) else 0
    if unit == "seconds":
        seconds = longest_take(architecture, request, usable)
        if seconds > (request.duration_seconds or 0):
            yield "LONGER", f"Takes of up to {plain_number(seconds)} s fit."
    elif unit == "tokens":
        tokens, limit = longest_context(architecture, request, usable), architecture.shapes.max_context
        if limit and tokens >= limit > request.context:
            yield "LONGER", f"All {limit:,} positions of the config fit."
        elif tokens > request.context:
            yield "LONGER", f"Up to {tokens:,} tokens fit."
    if most > request.batch:
        yield "LARGER_BATCH", f"Up to {most:,} at once fit{_at_this_length(unit)}."
    for weights in _wider(architecture, request):
        wide = fit_on(architecture, in_format(request, weights), card)
        if wide.fits and wide.used_bytes > estimate(architecture, request).total_bytes:
            yield "HIGHER_PRECISION", f"{weights} weights fit too: {gigabytes(wide.used_bytes)} in all."
            break
    yield from _cache_saving(architecture, request)
    try:
        other = smallest_card(architecture, request.changed(device="cuda")).card
    except DoesNotFit:
        return
    if card.slug != THIS_MACHINE and other.memory_bytes < card.memory_bytes:
        name = _named(other, request)
        yield "SMALLER_CARD", f"{name[0].upper()}{name[1:]} would do."


def _ways_out(
    architecture: Architecture, request: Request, card: Card, usable: int
) -> Iterator[tuple[str, str]]:
    """What to change where the request does not fit, the least painful first."""
    result = estimate(architecture, request)
    fixed = result.weight_bytes + result.overhead_bytes
    if fixed > usable:
        yield (
            "WEIGHTS_TOO_LARGE",
            f"The {request.weights} weights and the runtime alone take {gigabytes(fixed)}: a shorter input or a"
            " smaller batch does not help.",
        )
    else:
        yield from _less(architecture, request, usable)
    for weights in _narrower(architecture, request):
        narrow = fit_on(architecture, in_format(request, weights), card)
        if narrow.fits:
            yield (
                "LOWER_PRECISION",
                f"With {weights} weights it needs {gigabytes(narrow.used_bytes)} and fits.",
            )
            break
    yield from _more_cards(architecture, request, card, usable)
    try:
        yield "LARGER_CARD", f"It fits on {_smallest(architecture, request)}."
    except DoesNotFit:
        yield "NO_SINGLE_CARD", "It fits on no single card of the list."


def _less(architecture: Architecture, request: Request, usable: int) -> Iterator[tuple[str, str]]:
    """Ways out that keep the weights as they are."""
    result, unit = estimate(architecture, request), length_unit(architecture)
    if unit == "tokens" and result.low_total_bytes <= usable:
        yield (
            "PROMPT_IN_PIECES" if architecture.has_cache else "ONE_AFTER_ANOTHER",
            f"{'With prompts read in pieces (chunked prefill)' if architecture.has_cache else 'One after another'}"
            f" it needs {gigabytes(result.low_total_bytes)} and fits.",
        )
    if architecture.music is None and result.key_value_bytes:
        for cache in _CACHES:
            narrow = estimate(architecture, request.changed(cache=cache))
            if narrow.key_value_bytes < result.key_value_bytes and narrow.total_bytes <= usable:
                yield (
                    "CACHE_PRECISION",
                    f"With a cache in {cache} it needs {gigabytes(narrow.total_bytes)} and fits.",
                )
                break
    if architecture.music is not None and request.guidance:
        alone = estimate(architecture, request.changed(guidance=False)).total_bytes
        if alone <= usable:
            yield (
                "NO_GUIDANCE",
                f"Without guidance it needs {gigabytes(alone)} and fits; the music then follows the prompt less.",
            )
    try:
        if unit == "seconds":
            seconds = longest_take(architecture, request, usable)
            yield "SHORTER", f"Takes of up to {plain_number(seconds)} s fit."
        elif unit == "tokens":
            tokens = longest_context(architecture, request, usable)
            if _LEAST_TOKENS <= tokens < request.context:
                yield "SHORTER", f"Up to {tokens:,} tokens fit at this batch."
        most = largest_batch(architecture, request, usable) if knows_batches(architecture) else request.batch
    except DoesNotFit:
        return
    if most < request.batch:
        yield "SMALLER_BATCH", f"Up to {most:,} at once fit{_at_this_length(unit)}."


def _more_cards(
    architecture: Architecture, request: Request, card: Card, usable: int
) -> Iterator[tuple[str, str]]:
    heads = architecture.shapes.heads
    if architecture.music is not None or not takes_quantised_weights(architecture):
        return
    for weights in (request.weights, *_narrower(architecture, request)):
        for count in range(request.tensor_parallel + 1, _MOST_CARDS + 1):
            if (heads and heads % count) or (not heads and count & (count - 1)):
                continue
            shared = in_format(request, weights).changed(tensor_parallel=count)
            size = estimate(architecture, shared).total_bytes
            if size <= usable:
                narrow = f" with {weights} weights" if weights != request.weights else ""
                yield (
                    "MORE_CARDS",
                    f"It fits on {count} × {card.name} with tensor parallelism{narrow}: {gigabytes(size)} on each.",
                )
                return


def _cache_saving(architecture: Architecture, request: Request) -> Iterator[tuple[str, str]]:
    result = estimate(architecture, request)
    if architecture.music is not None or result.key_value_bytes < _WORTH_A_WORD * result.total_bytes:
        return
    saved = result.cache_bytes - estimate(architecture, request.changed(cache="int8")).cache_bytes
    if saved > 0 and request.cache in {"fp32", "bf16", "fp16"}:
        yield "CACHE_PRECISION", f"A cache in int8 would save {gigabytes(saved)}."


def _always(architecture: Architecture, request: Request) -> Iterator[tuple[str, str]]:
    parameters, heads, count = architecture.parameters, architecture.shapes.heads, request.tensor_parallel
    if parameters.experts and parameters.active < parameters.total:
        yield (
            "ALL_EXPERTS_IN_MEMORY",
            f"A token passes through {parameters.active / 1e9:,.1f} of {parameters.total / 1e9:,.1f} billion"
            " parameters, but all experts must be in memory.",
        )
    if count > 1 and heads and heads % count:
        yield (
            "HEADS_NOT_DIVISIBLE",
            f"{heads} heads cannot be shared out among {count} cards evenly; serving engines refuse that. Choose a"
            f" number that divides {heads}.",
        )
    kept = [state.heads for state in architecture.states if state.token_elements and state.heads < count]
    if kept:
        yield (
            "CACHE_IS_COPIED",
            f"The cache can be divided among {min(kept)} {'card' if min(kept) == 1 else 'cards'} at most; beyond that"
            " each further card holds a copy.",
        )


def _smallest(architecture: Architecture, request: Request) -> str:
    return _named(smallest_card(architecture, request.changed(device="cuda")).card, request)


def _named(card: Card, request: Request) -> str:
    """One card of the kind, or as many as the request is shared out among."""
    return f"{request.tensor_parallel} × {card.name}" if request.tensor_parallel > 1 else f"the {card.name}"


def _at_this_length(unit: str | None) -> str:
    return " at this length" if unit is not None else ""


def _narrower(architecture: Architecture, request: Request) -> list[str]:
    """Formats with smaller weights than the request's, wide ones first."""
    now = estimate(architecture, request).weight_bytes
    found = []
    for weights in _WEIGHTS:
        if WEIGHT_FORMATS[weights].is_quantised and not takes_quantised_weights(architecture):
            continue
        if estimate(architecture, in_format(request, weights)).weight_bytes < now:
            found.append(weights)
    return found


def _wider(architecture: Architecture, request: Request) -> list[str]:
    """Formats between the published one and the request's, wide ones first; none for a published format."""
    if request.weights == "stored" or architecture.quantisation is not None:
        return []
    published = _WIDTH.get(architecture.dtype or "bf16", 1)
    own = _WIDTH.get(request.weights, 3)
    return [weights for weights in _WEIGHTS if published <= _WIDTH.get(weights, 3) < own]
