"""Why a request for music is refused: one sentence a field, with a code and figures for scripts.

Every check of a request answers with these; page, API and command only print them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Refusal:
    """Why one field was refused: a sentence, a code for scripts, and the figures it rests on."""

    message: str
    code: str
    facts: dict[str, Any] = field(default_factory=dict)


class GenerationRefused(ValueError):
    """The request was not queued. `refusals` is by field, in the form's order; `str()` is the first sentence."""

    def __init__(self, refusals: dict[str, Refusal]) -> None:
        self.refusals = refusals
        self.first = next(iter(refusals.values()))
        super().__init__(self.first.message)


class QuotaReached(GenerationRefused):
    """The request is as it should be, but this person has what the studio allows one person for now."""


class QueueFull(QuotaReached):
    """The person has as many unfinished jobs as the studio allows."""


class DailyQuotaReached(QuotaReached):
    """The person asked for as many seconds of audio in a day as the studio allows."""


class StorageFull(GenerationRefused):
    """There is no room for what the job would write: a limit of disk use, or the disk itself."""
