"""What a person asks of a model, checked and made into the calculator's request. Page, API and command share it.

Every refusal names the field that is wrong. The machine this runs on is told by an app above: this one cannot look.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from gated_configs.memory import (
    ACTIVATION_FORMATS,
    CACHE_FORMATS,
    CARDS,
    WEIGHT_FORMATS,
    Architecture,
    Card,
    Request,
    default_request,
    find_card,
)
from gated_configs.memory.dtypes import Format, format_name

MOST_SEQUENCES: Final = 1_000_000
MOST_TOKENS: Final = 100_000_000
MOST_SECONDS: Final = 86_400
MOST_CARDS: Final = 1024
#: The slug of the machine that the studio runs on.
THIS_MACHINE: Final = "this"
_LONGEST_TEXT: Final = 80

LengthUnit = Literal["tokens", "seconds"]


class InvalidQuestion(ValueError):
    """A field of a question cannot be; `str()` is the sentence for people."""

    code = "INVALID_QUESTION"

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field


@dataclass(frozen=True)
class Machine:
    """The device of this machine that models are loaded on, and its whole memory."""

    name: str
    memory_bytes: int
    device: Literal["cuda", "cpu", "mps"]


@dataclass(frozen=True)
class Question:
    """One question, as it was asked; None is left to the model. `gpu` is a card's slug or name, or "this".

    `seq_length` is tokens of prompt and answer together; music has `duration_seconds` instead, and what does not
    apply to a model is left aside. `memory_bytes` stands for the memory of the card, whatever its name.
    """

    precision: str | None = None
    cache_precision: str | None = None
    activation_precision: str | None = None
    batch_size: int = 1
    seq_length: int | None = None
    duration_seconds: float | None = None
    guidance: bool = True
    encoder_tokens: int | None = None
    tensor_parallel: int = 1
    gpu: str | None = None
    memory_bytes: int | None = None


MachineReader = Callable[[], Machine | None]
_machine_reader: MachineReader | None = None


def set_machine_reader(reader: MachineReader | None) -> None:
    """Let an app that can look at the hardware tell what this machine has."""
    global _machine_reader
    _machine_reader = reader


def this_machine() -> Machine | None:
    """The device models are loaded on here, or None where nobody can tell."""
    return _machine_reader() if _machine_reader is not None else None


def length_unit(architecture: Architecture) -> LengthUnit | None:
    """What a model's length is counted in; None where every input has the same size or none is known."""
    if architecture.music is not None:
        return "seconds"
    shapes = architecture.shapes
    if architecture.has_cache:
        return "tokens"
    return "tokens" if shapes.vocabulary and shapes.heads and not shapes.default_tokens else None


def knows_batches(architecture: Architecture) -> bool:
    """Whether more at once is something that the figures tell: of codecs and convolutions they know the weights."""
    return length_unit(architecture) is not None or architecture.shapes.default_tokens > 0


def request_of(question: Question, architecture: Architecture) -> Request:
    """The calculator's request. Raises InvalidQuestion for a field that cannot be."""
    check_question(question)
    request = default_request(architecture)
    machine = this_machine() if question.gpu == THIS_MACHINE else None
    if machine is not None:
        request = request.changed(device=machine.device)
    weights = request.weights
    if question.precision:
        weights = _weights(question.precision, architecture)
        # Cache and activations follow the weights unless they are chosen.
        request = request.changed(weights=weights, cache="", activations="")
    if question.activation_precision:
        activations = _format("activation_precision", question.activation_precision, ACTIVATION_FORMATS)
        request = request.changed(activations=activations, cache="")
    if question.cache_precision:
        cache = _format("cache_precision", question.cache_precision, CACHE_FORMATS)
        request = request.changed(cache=cache)
    request = request.changed(
        batch=question.batch_size,
        guidance=question.guidance,
        encoder_tokens=question.encoder_tokens or 0,
        tensor_parallel=question.tensor_parallel,
    )
    unit = length_unit(architecture)
    if unit == "seconds" and question.duration_seconds is not None:
        request = request.changed(duration_seconds=float(question.duration_seconds))
    if unit == "tokens" and question.seq_length is not None:
        request = request.changed(context=question.seq_length)
    return request


def check_question(question: Question) -> None:
    """Whether the numbers can be, whatever the model. Raises InvalidQuestion."""
    _check_whole("batch_size", question.batch_size, 1, MOST_SEQUENCES)
    _check_whole("tensor_parallel", question.tensor_parallel, 1, MOST_CARDS)
    if question.seq_length is not None:
        _check_whole("seq_length", question.seq_length, 1, MOST_TOKENS)
    if question.encoder_tokens is not None:
        _check_whole("encoder_tokens", question.encoder_tokens, 0, MOST_TOKENS)
    check_seconds("duration_seconds", question.duration_seconds)
    if question.memory_bytes is not None and question.memory_bytes < 1:
        raise InvalidQuestion("memory_bytes", "memory_bytes is a whole number of bytes above 0.")


def check_seconds(field: str, seconds: float | None) -> None:
    """Whether a take may be that long. Raises InvalidQuestion."""
    if seconds is None:
        return
    if isinstance(seconds, bool) or not math.isfinite(seconds) or not 0 < seconds <= MOST_SECONDS:
        raise InvalidQuestion(field, f"{field} is a number above 0 and at most {MOST_SECONDS:,} (a day).")


def card_of(question: Question) -> Card | None:
    """The card to measure against, or None where none is chosen. Raises InvalidQuestion."""
    card: Card | None = None
    if question.gpu == THIS_MACHINE:
        machine = this_machine()
        if machine is not None:
            card = Card(THIS_MACHINE, machine.name, machine.memory_bytes)
        elif question.memory_bytes is None:
            raise InvalidQuestion(
                "gpu", "This studio cannot tell what memory this machine has; choose a card of the list."
            )
        else:
            card = Card(THIS_MACHINE, "This machine", question.memory_bytes)
    elif question.gpu:
        if len(question.gpu) > _LONGEST_TEXT:
            raise InvalidQuestion("gpu", f"gpu is the name of a card, at most {_LONGEST_TEXT} characters.")
        try:
            card = find_card(question.gpu)
        except ValueError as error:
            raise InvalidQuestion("gpu", f"gpu: {error}") from error
    if question.memory_bytes is not None:
        name = card.name if card is not None else f"{question.memory_bytes / 1e9:g} GB"
        card = Card(card.slug if card is not None else "memory", name, question.memory_bytes)
    return card


def known_cards() -> tuple[Card, ...]:
    """The cards of the list, and this machine first where somebody can tell it."""
    machine = this_machine()
    own = (Card(THIS_MACHINE, machine.name, machine.memory_bytes),) if machine is not None else ()
    return (*own, *CARDS)


def on_card(request: Request, card: Card) -> Request:
    """The same request on another card: this machine may compute on its processor, cards of the list do not."""
    machine = this_machine() if card.slug == THIS_MACHINE else None
    return request.changed(device=machine.device if machine is not None else "cuda")


def _weights(text: str, architecture: Architecture) -> str:
    if text.strip().lower() == "stored":
        if architecture.quantisation is None:
            raise InvalidQuestion(
                "precision",
                'precision: this config names no quantisation, so "stored" says nothing. Choose a format such as bf16.',
            )
        return "stored"
    return _format("precision", text, WEIGHT_FORMATS)


def _format(field: str, text: str, formats: dict[str, Format] | dict[str, int]) -> str:
    if len(text) > _LONGEST_TEXT:
        raise InvalidQuestion(field, f"{field} is the name of a format; known are {', '.join(formats)}.")
    try:
        return format_name(text, formats)
    except ValueError as error:
        raise InvalidQuestion(field, f"{field}: {error}") from error


def _check_whole(field: str, value: int, least: int, most: int) -> None:
    if isinstance(value, bool) or not least <= value <= most:
        raise InvalidQuestion(field, f"{field} is a whole number from {least} to {most:,}.")
