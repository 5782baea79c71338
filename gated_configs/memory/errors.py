"""What the calculator can refuse, and in which words. Each error is one sentence that a person can act on.

Knows nothing of Django, torch or transformers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a config: `code` for programs, `sentence` for people, `field` where it is."""

    code: str
    sentence: str
    field: str = ""


class CalculatorError(Exception):
    """Base of all refusals; `code` is stable, the text is a whole sentence."""

    code = "CALCULATOR_ERROR"


class InvalidConfig(CalculatorError):
    """The text is no usable config.json. Carries every problem found, and the fields its family requires."""

    code = "INVALID_CONFIG"

    def __init__(
        self,
        problems: tuple[Problem, ...],
        *,
        required_fields: tuple[str, ...] = (),
        missing_fields: tuple[str, ...] = (),
    ) -> None:
        super().__init__(" ".join(problem.sentence for problem in problems))
        self.problems = problems
        self.required_fields = required_fields
        self.missing_fields = missing_fields


class UnsupportedArchitecture(CalculatorError):
    """The config is well formed and names an architecture this calculator cannot compute. Never guessed."""

    code = "UNSUPPORTED_ARCHITECTURE"


class LimitExceeded(CalculatorError):
    """The computation met its limit of time or memory and was stopped."""

    code = "LIMIT_EXCEEDED"


class CalculatorUnavailable(CalculatorError):
    """The child process could not be started or ended without an answer."""

    code = "CALCULATOR_UNAVAILABLE"


class DoesNotFit(CalculatorError):
    """Nothing that was asked for fits the memory given."""

    code = "DOES_NOT_FIT"
