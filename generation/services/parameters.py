"""Ranges of what people may ask for, and whether a value lies in one. Knows neither rows nor forms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from adapters.models import MAX_STRENGTH
from gated_configs.wording import plain_number
from generation.models.job import MAX_SEED
from generation.services.refusals import Refusal


@dataclass(frozen=True)
class Range:
    """Allowed values of a parameter, ends included."""

    label: str
    minimum: float
    maximum: float
    default: float
    whole: bool = False


GUIDANCE_SCALE: Final = Range("Guidance", 1, 20, 3.0)
TEMPERATURE: Final = Range("Temperature", 0.05, 5, 1.0)
TOP_K: Final = Range("Top-k", 0, 2048, 250, whole=True)
TOP_P: Final = Range("Top-p", 0, 1, 0.0)
SEED: Final = Range("Seed", 0, MAX_SEED, 0, whole=True)
STRENGTH: Final = Range("Strength", 0, MAX_STRENGTH, 1.0)


def check_number(value: Any, allowed: Range, name: str) -> float | int | Refusal:
    """The value as a number in that range, its default for None, or why it is none."""
    if value is None:
        value = allowed.default
    low, high = plain_number(allowed.minimum), plain_number(allowed.maximum)
    kind = "a whole number" if allowed.whole else "a number"
    facts = {"field": name, "minimum": allowed.minimum, "maximum": allowed.maximum}
    refusal = Refusal(
        f"{allowed.label} must be {kind} from {low} to {high}.", "PARAMETER_OUT_OF_RANGE", facts
    )
    if isinstance(value, bool) or not isinstance(value, int | float) or not is_finite(value):
        return refusal
    if not allowed.minimum <= value <= allowed.maximum or (allowed.whole and value != int(value)):
        return refusal
    return int(value) if allowed.whole else float(value)


def is_finite(value: float) -> bool:
    """Whether it is a number that a float can hold; JSON and the command line know longer whole ones."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
