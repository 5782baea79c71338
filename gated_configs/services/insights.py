"""What a model's memory does as batch and length grow, in sentences with figures. Says nothing where nothing holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby
from typing import Final

from gated_configs.memory import (
    Architecture,
    Card,
    DoesNotFit,
    Request,
    estimate,
    fit_on,
    largest_batch,
    longest_context,
    longest_take,
)
from gated_configs.services.questions import MOST_TOKENS, LengthUnit
from gated_configs.wording import gigabytes, plain_number, spoken_bytes

#: A saving of less than this share is not worth a sentence.
_WORTH_A_WORD: Final = 0.02


def insights_of(
    architecture: Architecture,
    request: Request,
    card: Card | None,
    unit: LengthUnit | None,
    *,
    batch_sizes: tuple[int, ...],
    longest: float | None,
) -> tuple[str, ...]:
    """What stands out; `longest` is the longest length of the grid, in its unit."""
    said: list[str] = []
    if unit is None:
        said += _fixed_input(architecture, request, card)
    elif unit == "seconds":
        said += _music(architecture, request, longest or 30.0)
    elif not architecture.has_cache:
        said.append(
            "It keeps no cache: beyond the weights only activations grow, with batch and length alike."
        )
    else:
        said += _cache(architecture, request, batch_sizes, int(longest or request.context))
    if card is not None and unit is not None:
        said += _reach(architecture, request, card, unit, batch_sizes)
    return tuple(said)


def _fixed_input(architecture: Architecture, request: Request, card: Card | None) -> Iterator[str]:
    yield "It keeps no cache, and every input has the same size: only the batch changes what it needs."
    if card is None or not architecture.shapes.default_tokens:
        return
    try:
        most = largest_batch(architecture, request, fit_on(architecture, request, card).usable_bytes)
    except DoesNotFit:
        return
    yield f"On the {card.name} up to {most:,} at once fit."


def _music(architecture: Architecture, request: Request, longest: float) -> Iterator[str]:
    asked = request.changed(duration_seconds=longest)
    if request.guidance:
        both = estimate(architecture, asked)
        alone = estimate(architecture, asked.changed(guidance=False))
        yield (
            f"Guidance runs every take a second time without its prompt: at {plain_number(longest)} s the cache takes"
            f" {gigabytes(both.cache_bytes)} with it and {gigabytes(alone.cache_bytes)} without."
        )
    result = estimate(architecture, asked)
    codec = result.activations.high_bytes - result.activations.low_bytes
    if codec > 0:
        yield (
            f"Decoding the codes to sound takes up to {gigabytes(codec)} more at {plain_number(longest)} s, one take"
            " after another, whatever the batch."
        )
    music = architecture.music
    assert music is not None
    yield (
        f"A second of music is {plain_number(music.frame_rate)} steps of {music.codebooks} codebooks; each step adds"
        f" {result.cache_bytes_per_token:,} bytes to the cache of every row."
    )


def _cache(
    architecture: Architecture, request: Request, batch_sizes: tuple[int, ...], longest: int
) -> Iterator[str]:
    result = estimate(architecture, request.changed(context=longest))
    if result.cache_bytes_per_token:
        yield from _overtaking(architecture, request, batch_sizes)
    yield from _window(architecture, request, longest)
    if result.state_bytes:
        layers = sum(len(state.layers) for state in architecture.states if state.state_elements)
        one = spoken_bytes(estimate(architecture, request.changed(batch=1)).state_bytes)
        kind = f"{layers} recurrent layers keep" if layers else "The convolutions keep"
        yield f"{kind} a state of {one} for each sequence, however long it is."
    yield from _sharing(architecture)
    if result.cross_bytes:
        cross = spoken_bytes(estimate(architecture, request.changed(batch=1, context=longest)).cross_bytes)
        yield f"Cross-attention keeps {cross} for each sequence, by the length of what the encoder read."


def _overtaking(architecture: Architecture, request: Request, batch_sizes: tuple[int, ...]) -> Iterator[str]:
    """From which length on the cache is larger than the weights, at the smallest batch and at the largest."""
    limit = architecture.shapes.max_context or MOST_TOKENS
    for batch in dict.fromkeys((min(batch_sizes), max(batch_sizes))):
        asked = request.changed(batch=batch)

        def outgrows(tokens: int, asked: Request = asked) -> bool:
            result = estimate(architecture, asked.changed(context=tokens))
            return result.cache_bytes > result.weight_bytes

        tokens = _first(outgrows, limit)
        if tokens == 1:
            yield f"At batch {batch:,} the cache is larger than the weights at every length."
        elif tokens is not None:
            yield f"At batch {batch:,} the cache outgrows the weights from {tokens:,} tokens on."
        elif architecture.shapes.max_context:
            share = estimate(architecture, asked.changed(context=limit))
            yield (
                f"At batch {batch:,} the cache stays smaller than the weights up to all {limit:,} positions:"
                f" {gigabytes(share.cache_bytes)} beside {gigabytes(share.weight_bytes)}."
            )
        else:
            yield f"At batch {batch:,} the cache stays smaller than the weights at every length."


def _window(architecture: Architecture, request: Request, longest: int) -> Iterator[str]:
    windows = {
        state.window for state in architecture.states if state.window is not None and state.token_elements
    }
    if not windows:
        return
    asked = request.changed(context=longest)
    endless = replace(
        architecture, states=tuple(replace(state, window=None) for state in architecture.states)
    )
    kept, whole = estimate(architecture, asked).cache_bytes, estimate(endless, asked).cache_bytes
    if whole - kept < _WORTH_A_WORD * whole:
        return
    layers = sum(len(state.layers) for state in architecture.states if state.window is not None)
    names = " and ".join(f"{window:,}" for window in sorted(windows))
    yield (
        f"{layers} layers look at most {names} tokens back: at {longest:,} tokens that saves"
        f" {gigabytes(whole - kept)} of a cache of {gigabytes(whole)}."
    )


def _sharing(architecture: Architecture) -> Iterator[str]:
    heads = architecture.shapes.heads
    shared = {
        state.heads
        for state in architecture.states
        if state.attention in {"gqa", "mqa"} and state.token_elements
    }
    if len(shared) == 1 and heads > (kept := next(iter(shared))):
        yield (
            f"{heads} query heads share {kept} key-value {'head' if kept == 1 else 'heads'}: the cache has"
            f" 1/{plain_number(heads / kept)} of the size that it would have with one for each."
        )
    if any(state.attention == "mla" for state in architecture.states):
        yield "Multi-head latent attention keeps one compressed latent for each token instead of all heads."


def _reach(
    architecture: Architecture, request: Request, card: Card, unit: LengthUnit, batch_sizes: tuple[int, ...]
) -> Iterator[str]:
    """How far each batch size goes on the card."""
    reached: list[tuple[int, str]] = []
    limit = architecture.shapes.max_context if unit == "tokens" else 0
    for batch in batch_sizes:
        asked = request.changed(batch=batch)
        usable = fit_on(architecture, asked, card).usable_bytes
        try:
            if unit == "seconds":
                reached.append((batch, f"{plain_number(longest_take(architecture, asked, usable))} s"))
            else:
                tokens = longest_context(architecture, asked, usable)
                reached.append((batch, f"{'all ' if tokens == limit else ''}{tokens:,} tokens"))
        except DoesNotFit:
            break
    if not reached:
        yield f"On the {card.name} not even the smallest batch fits, however short."
        return
    unfit = batch_sizes[len(reached) :]
    end = f"; batch {unfit[0]:,} does not fit at all" if unfit else ""
    yield f"Longest on the {card.name} with a tenth left free: {', '.join(_in_runs(reached))}{end}."


def _in_runs(reached: list[tuple[int, str]]) -> Iterator[str]:
    """Neighbours that reach equally far are said together."""
    for length, run in groupby(reached, key=lambda each: each[1]):
        batches = [batch for batch, _ in run]
        to = f" to {batches[-1]:,}" if len(batches) > 1 else ""
        yield f"batch {batches[0]:,}{to} {length}"


def _first(holds: Callable[[int], bool], limit: int) -> int | None:
    """The smallest number of 1 to `limit` for which it holds; once it does, it does for all larger ones."""
    if not holds(limit):
        return None
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
