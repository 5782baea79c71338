"""Shapes of the API that tells of adapters in jobs and takes. No logic beyond reading rows into shapes."""

from __future__ import annotations

from datetime import datetime

from ninja import Schema
from pydantic import ConfigDict, Field, StrictFloat, StrictInt

from generation.api_schemas import GenerationOut, TakeOut
from generation.cards import JobCard
from generation.models import AdapterTrial
from generation.services.adapters import Removal
from generation.services.trials import TrialPart
from registry.models import whole_if_equal


class RemovalOut(Schema):
    """What became of a deleted adapter and what needed it."""

    cancelled_jobs: int = Field(description="Queued jobs that needed it.")
    running_jobs: int = Field(description="Jobs that are being made with it and will finish.")
    takes: int = Field(description="Takes made with it, which stay.")
    freed_bytes: int = Field(description="0 while a running job or another adapter needs the same weights.")

    @classmethod
    def of(cls, removal: Removal) -> RemovalOut:
        """Read the service's answer."""
        return cls(
            cancelled_jobs=removal.cancelled_jobs,
            running_jobs=removal.running_jobs,
            takes=removal.takes,
            freed_bytes=removal.freed_bytes,
        )


class TrialIn(Schema):
    """A comparison by ear. Everything has a default."""

    model_config = ConfigDict(extra="forbid")

    prompt: str | None = Field(None, description="The default is played with the adapter's trigger words.")
    seed: StrictInt | None = Field(None, description="0 to 4294967295; the default is a new one.")
    duration_seconds: StrictFloat | None = Field(
        None, description="Length of each take; the default is the model's `recommended_duration_seconds`."
    )
    model: str | None = Field(None, description="Model id; the default is the active model.")


class TrialPartOut(Schema):
    """One of the three."""

    label: str = Field(description="Base, Strength 0.5 or Strength 1.")
    strength: float = Field(description="0 for the base.")
    gain_db: float = Field(description="Play the take with it and all are equally loud. Never above 0.")
    job: GenerationOut
    take: TakeOut | None


class TrialOut(Schema):
    """A comparison: one prompt and seed with the base alone, and with the adapter at two strengths."""

    id: int
    adapter_id: int
    model: str
    prompt: str
    seed: int
    duration_seconds: float
    is_finished: bool = Field(description="Whether every part has its take.")
    parts: list[TrialPartOut]
    created_at: datetime

    @classmethod
    def of(cls, trial: AdapterTrial, parts: list[tuple[TrialPart, JobCard]]) -> TrialOut:
        """Read a row, its parts and their cards."""
        return cls(
            id=trial.pk,
            adapter_id=trial.adapter_id,
            model=trial.model_id,
            prompt=trial.prompt,
            seed=trial.seed,
            duration_seconds=whole_if_equal(trial.duration_seconds),
            is_finished=all(part.take is not None and not part.job.is_unfinished for part, _ in parts),
            parts=[
                TrialPartOut(
                    label=part.label,
                    strength=part.strength,
                    gain_db=part.gain_db,
                    job=GenerationOut.of(part.job, card),
                    take=TakeOut.of(part.take) if part.take is not None else None,
                )
                for part, card in parts
            ],
            created_at=trial.created_at,
        )
