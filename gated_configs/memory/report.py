"""An estimate as lines of text for a terminal: what it is, where the bytes go, what fits. Plain strings."""

from __future__ import annotations

from collections.abc import Iterator

from gated_configs.memory.architecture import Architecture
from gated_configs.memory.cards import Card
from gated_configs.memory.errors import DoesNotFit
from gated_configs.memory.estimate import MemoryEstimate
from gated_configs.memory.solve import fit_on, largest_batch, longest_context, longest_take, smallest_card


def spoken_bytes(count: int) -> str:
    """Bytes in both units, labelled: `1.50 GB (1.40 GiB)`."""
    return f"{count / 1e9:,.2f} GB ({count / 2**30:,.2f} GiB)"


def report_lines(
    architecture: Architecture, estimate: MemoryEstimate, card: Card | None = None
) -> Iterator[str]:
    """Everything a person asks first, a line each."""
    parameters = architecture.parameters
    yield f"{architecture.class_name}: {architecture.model_type}, attention {architecture.attention_type}"
    if architecture.attention_patterns:
        kinds = ", ".join(f"{count} {name}" for name, count in architecture.attention_patterns.items())
        yield f"Layers: {kinds}"
    yield f"Parameters: {parameters.total:,} ({parameters.convention})"
    if parameters.active != parameters.total:
        yield f"Active per token: {parameters.active:,}"
    for count in parameters.counts:
        if count.value != parameters.total:
            yield f"  {count.value:,}: {count.meaning}"
    for part, elements in sorted(parameters.parts.items(), key=lambda item: -item[1]):
        yield f"  {part}: {elements:,}"
    request = estimate.request
    yield ""
    extent = (
        f"{request.duration_seconds or 0:g} s of music, {estimate.steps} steps, {estimate.rows} rows"
        if architecture.music is not None
        else f"batch {request.batch}, {estimate.tokens} tokens"
    )
    yield f"Memory for {extent}; weights {request.weights}, cache {request.cache}, activations {request.activations}"
    for name, size in estimate.breakdown().items():
        yield f"  {name}: {spoken_bytes(size)}"
    yield f"  total: {spoken_bytes(estimate.total_bytes)}; at least {spoken_bytes(estimate.low_total_bytes)}"
    if estimate.cache_bytes_per_token:
        yield f"  cache per token and sequence: {estimate.cache_bytes_per_token:,} bytes"
    yield from (
        f"  {note}" for note in (*estimate.activations.assumptions, *estimate.notes, *architecture.notes)
    )
    yield ""
    yield from _fits(architecture, estimate, card)


def _fits(architecture: Architecture, estimate: MemoryEstimate, card: Card | None) -> Iterator[str]:
    request = estimate.request
    if card is None:
        try:
            yield f"Smallest card with a tenth left free: {smallest_card(architecture, request).card.name}"
        except DoesNotFit as error:
            yield str(error)
        return
    fit = fit_on(architecture, request, card)
    verdict = "fits" if fit.fits else "does not fit"
    yield f"{card.name}: {verdict}, {spoken_bytes(fit.used_bytes)} of {spoken_bytes(fit.usable_bytes)} usable"
    try:
        if architecture.music is not None:
            yield f"  longest take: {longest_take(architecture, request, fit.usable_bytes):g} s"
        elif architecture.has_cache:
            yield f"  longest context: {longest_context(architecture, request, fit.usable_bytes):,} tokens"
        yield f"  most at once: {largest_batch(architecture, request, fit.usable_bytes):,}"
    except DoesNotFit as error:
        yield f"  {error}"
