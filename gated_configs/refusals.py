"""What can go wrong with a model's figures, as one status, sentence and code: for the API, the pages and the command."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from gated_configs.memory import CalculatorError, InvalidConfig
from gated_configs.services.lookup import LookupFailed
from gated_configs.services.model_ids import InvalidModelId
from gated_configs.services.questions import InvalidQuestion
from gated_configs.services.rate_limits import TooManyRequests
from gated_configs.submission_bounds import SUBMISSION_URL

#: Statuses of the calculator's refusals: the request is well formed and its config cannot be computed.
_STATUS: Final = {
    "INVALID_CONFIG": 422,
    "UNSUPPORTED_ARCHITECTURE": 422,
    "LIMIT_EXCEEDED": 422,
    "TOO_MUCH_SAVED": 409,
    "CALCULATOR_UNAVAILABLE": 503,
}


@dataclass(frozen=True)
class Refusal:
    """A refusal as it is told: `sentence` says what to do, `facts` are what a script may need beside it."""

    status: int
    sentence: str
    code: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def requires_config(self) -> bool:
        """Whether pasting the config.json would help."""
        return bool(self.facts.get("requires_config"))

    @property
    def retry_after_seconds(self) -> int | None:
        """When it may be tried again, where that is known."""
        seconds = self.facts.get("retry_after_seconds")
        return int(seconds) if seconds is not None else None


def refusal_of(error: BaseException) -> Refusal | None:
    """What to tell of an error, or None for one that nobody foresaw."""
    if isinstance(error, InvalidModelId):
        return Refusal(400, str(error), error.code)
    if isinstance(error, InvalidQuestion):
        return Refusal(400, str(error), error.code, {"errors": {error.field: str(error)}})
    if isinstance(error, TooManyRequests):
        return Refusal(429, str(error), error.code, {"retry_after_seconds": error.retry_after_seconds})
    if isinstance(error, LookupFailed):
        return Refusal(error.status, str(error), error.error_code, _lookup_facts(error))
    if isinstance(error, InvalidConfig):
        return Refusal(_STATUS[error.code], str(error), error.code, config_facts(error))
    if isinstance(error, CalculatorError) and error.code in _STATUS:
        return Refusal(_STATUS[error.code], str(error), error.code)
    return None


def config_facts(error: InvalidConfig) -> dict[str, Any]:
    """The fields a config's family requires, those that are missing, and each problem by its place."""
    errors: dict[str, str] = {}
    for problem in error.problems:
        errors.setdefault(problem.field or "config", problem.sentence)
    return {
        "required_fields": list(error.required_fields),
        "missing_fields": list(error.missing_fields),
        "errors": errors,
        "problems": [problem.code for problem in error.problems],
    }


def _lookup_facts(error: LookupFailed) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "model_id": error.model_id,
        "reason": error.reason or None,
        "next_step": error.next_step,
        "model_page": error.model_page,
        "requires_config": error.requires_config,
        "config_submission_url": SUBMISSION_URL if error.requires_config else None,
    }
    if error.retry_after_seconds is not None:
        facts["retry_after_seconds"] = error.retry_after_seconds
    return facts
