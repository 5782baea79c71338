"""Several models under one question, a row each. What goes wrong with one stays in its row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from django.contrib.auth.models import User

from gated_configs.memory import Card
from gated_configs.refusals import Refusal, refusal_of
from gated_configs.services.calculation import Calculation, calculate
from gated_configs.services.questions import InvalidQuestion, Question, card_of, check_question

MOST_MODELS: Final = 10


@dataclass(frozen=True)
class ComparisonRow:
    """A model as it was named, and either its figures or why there are none."""

    text: str
    calculation: Calculation | None
    error: Refusal | None


@dataclass(frozen=True)
class Comparison:
    """The rows in the order that was asked for."""

    question: Question
    card: Card | None
    rows: tuple[ComparisonRow, ...]


def compare(*, user: User, model_ids: Sequence[str], question: Question) -> Comparison:
    """Calculate each model. Raises InvalidQuestion for what is wrong with the question as a whole."""
    wanted = list(dict.fromkeys(text.strip() for text in model_ids if text.strip()))
    if not 1 <= len(wanted) <= MOST_MODELS:
        raise InvalidQuestion("models", f"models holds 1 to {MOST_MODELS} ids or addresses.")
    check_question(question)
    card = card_of(question)
    return Comparison(question, card, tuple(_row(user, text, question) for text in wanted))


def _row(user: User, text: str, question: Question) -> ComparisonRow:
    try:
        return ComparisonRow(text, calculate(user=user, model_id=text, question=question), None)
    except Exception as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        return ComparisonRow(text, None, refusal)
