"""Shapes of the JSON API: what scripts send and what they get. No logic beyond reading rows into shapes."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from ninja import Schema
from pydantic import ConfigDict, Field, StrictBool, StrictFloat, StrictInt

from generation.cards import JobCard
from generation.models import Job, Take
from generation.switch_card import switch_card
from registry.api_schemas import ErrorOut as ErrorOut  # shared, and read from here by this app's routes
from registry.api_schemas import ModelFacts
from registry.models import ModelSwitch, whole_if_equal


class ModelOut(ModelFacts):
    """One model and what it can do."""

    parameters: int | None
    description: str
    licence_url: str
    is_installed: bool = Field(description="Whether its files are on this machine.")
    is_loaded: bool = Field(description="Whether an engine holds it in memory.")


class ModelsOut(Schema):
    """Every model, and the one that new jobs use by default."""

    models: list[ModelOut]
    current_model: str | None


class AdapterIn(Schema):
    """An adapter to use."""

    model_config = ConfigDict(extra="forbid")

    id: StrictInt = Field(description="Number of the adapter; see `GET /api/adapters`.")
    strength: StrictFloat | None = Field(
        None, description="0 to 2; 0 is the base, 1 as trained. The default is the adapter's own."
    )


class GenerationIn(Schema):
    """A request for music. Everything but the prompt has a default.

    Numbers are strict: neither text nor true and false count as one.
    """

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(
        description="What the music should sound like. 1 to 1000 characters, unless the operator set another limit.",
        examples=["slow piano ballad, soft and warm"],
    )
    duration_seconds: StrictFloat | None = Field(
        None,
        description=(
            "Length in seconds: more than 0, at most the model's `max_duration_seconds` (30 for the official"
            " models, 20 for musicgen-demo, unless overridden; see `GET /api/models`), or with `extend` its"
            " `max_extended_seconds`. The default is the model's"
            " `recommended_duration_seconds`. A longer one is refused: `Duration 45s exceeds model limit of 30s`."
        ),
        examples=[10],
    )
    extend: StrictBool = Field(
        False,
        description=(
            "Whether the take may be longer than `max_duration_seconds`, up to `max_extended_seconds` where the model has"
            " one: it is then made in overlapping windows. What goes on from a take always may."
        ),
    )
    model: str | None = Field(None, description="Model id; the default is the active model.")
    seed: StrictInt | None = Field(
        None, description="0 to 4294967295; the default is a new one. Variations use seed, seed + 1, ..."
    )
    guidance_scale: StrictFloat | None = Field(None, description="1 to 20; 1 turns guidance off. Default 3.")
    temperature: StrictFloat | None = Field(None, description="0.05 to 5. Default 1.")
    top_k: StrictInt | None = Field(None, description="0 to 2048; 0 turns it off. Default 250.")
    top_p: StrictFloat | None = Field(None, description="0 to 1; 0 turns it off. Default 0.")
    variations: StrictInt | None = Field(
        None, description="1 to 8, unless the operator set another limit. Default 1."
    )
    continue_take: StrictInt | None = Field(
        None,
        description=(
            "Number of a take of yours that the new one goes on from. It must have the model's channels;"
            " `duration_seconds` is what is added, and the limit that of the whole."
        ),
    )
    continue_clip: StrictInt | None = Field(
        None,
        description=(
            "Number of a clip of yours that the take goes on from, instead of a take; see `POST /api/clips`. It is mixed"
            " to the model's channels."
        ),
    )
    continue_from_seconds: StrictFloat | None = Field(
        None, description="From which second of that take or clip on, at least 1. The default is its end."
    )
    melody_clip: StrictInt | None = Field(
        None,
        description=(
            "Number of a clip of yours whose melody the take follows, for a melody model; see `POST /api/clips`. It may be"
            " given beside what the take goes on from."
        ),
    )
    adapters: list[AdapterIn] = Field(
        [], description="Adapters to attach, at most 8; each must fit the model. None is the base alone."
    )


class AdapterUsedOut(Schema):
    """An adapter as a job or take uses it. `id` is null once the adapter was deleted."""

    id: int | None
    name: str
    version: str
    sha256: str = Field(description="Of its weights and config together.")
    strength: float


class TakeChangeIn(Schema):
    """What is to change about a take."""

    model_config = ConfigDict(extra="forbid")

    title: str | None = Field(
        None, description="Up to 200 characters. An empty one brings the prompt back.", examples=["Evening"]
    )
    is_favourite: StrictBool | None = Field(
        None, description="Favourites are never cleaned up.", examples=[True]
    )


class TakeOut(Schema):
    """One finished audio."""

    id: int
    job_id: int | None
    variation: int
    title: str
    prompt: str
    seed: int
    model: str
    adapters: list[AdapterUsedOut]
    duration_seconds: float
    frames: int = Field(description="Frames of the codec.")
    sample_rate: int
    channels: int
    is_partial: bool = Field(description="Whether it was cancelled before its full length.")
    is_favourite: bool
    licence: str
    recipe: dict[str, Any] = Field(description="Everything needed to make the take again.")
    peaks: list[int] = Field(description="Loudest sample of each equal part, 0 to 100.")
    file_bytes: int
    sha256: str
    audio_url: str
    created_at: datetime
    deleted_at: datetime | None = Field(None, description="When it was deleted; null for one that is kept.")
    removed_after: datetime | None = Field(
        None, description="Until when a deleted one can be restored; then its file is removed."
    )

    @classmethod
    def of(cls, take: Take) -> TakeOut:
        """Read a row."""
        return cls(
            id=take.pk,
            job_id=take.job_id,
            variation=take.variation,
            title=take.title,
            prompt=take.prompt,
            seed=take.seed,
            model=take.model_id,
            adapters=[AdapterUsedOut(**used) for used in take.recipe.get("adapters", ())],
            duration_seconds=take.duration_seconds,
            frames=take.frames,
            sample_rate=take.sample_rate,
            channels=take.channels,
            is_partial=take.is_partial,
            is_favourite=take.is_favourite,
            licence=take.licence,
            recipe=take.recipe,
            peaks=take.peaks,
            file_bytes=take.file_bytes,
            sha256=take.sha256,
            audio_url=take.audio_url,
            created_at=take.created_at,
            deleted_at=take.deleted_at,
            removed_after=take.removed_after,
        )


class TakesOut(Schema):
    """A page of takes, newest first."""

    takes: list[TakeOut]
    total: int
    next_before: int | None = Field(description="Pass it as `before` to get the next page; null on the last.")


class GenerationOut(Schema):
    """A job: what was asked for, how far it is, and its takes."""

    id: int
    status: Literal["queued", "running", "finished", "failed", "cancelled"]
    stage: str = Field(
        description="starting, loading, proving, encoding, generating or decoding while it runs."
    )
    cancel_requested: bool
    prompt: str
    model: str
    duration_seconds: float
    seed: int
    guidance_scale: float
    temperature: float
    top_k: int
    top_p: float
    variations: int
    adapters: list[AdapterUsedOut]
    frames_done: int
    frames_total: int = Field(description="Frames over all variations; 0 until the engine has begun.")
    queue_position: int | None = Field(description="1 for the next to start; null once it runs.")
    elapsed_seconds: float
    remaining_seconds: float | None = Field(description="From this machine's record; null when it has none.")
    error: str | None
    error_code: str | None
    takes: list[TakeOut]
    live_urls: list[str] = Field(description="Where takes can be heard that are being made right now.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, job: Job, card: JobCard) -> GenerationOut:
        """Read a row and its card."""
        return cls(
            id=job.pk,
            status=job.status,  # type: ignore[arg-type]  # a TextChoices value, held by a constraint
            stage=job.stage,
            cancel_requested=job.cancel_requested_at is not None,
            prompt=job.prompt,
            model=job.model_id,
            duration_seconds=whole_if_equal(job.duration_seconds),
            seed=job.seed,
            guidance_scale=job.guidance_scale,
            temperature=job.temperature,
            top_k=job.top_k,
            top_p=job.top_p,
            variations=job.variations,
            adapters=[AdapterUsedOut(**used.as_recipe()) for used in job.adapters.all()],
            frames_done=job.frames_done,
            frames_total=job.frames_total,
            queue_position=card.queue_position,
            elapsed_seconds=round(job.elapsed_seconds(), 3),
            remaining_seconds=card.remaining_seconds,
            error=job.error_message or None,
            error_code=job.error_code or None,
            takes=[TakeOut.of(take) for take in job.takes.kept().order_by("variation")],
            live_urls=[each.url for each in card.live],
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
        )


class SwitchIn(Schema):
    """A request for another active model."""

    model_config = ConfigDict(extra="forbid")

    model_id: str = Field(description="Model id or Hugging Face id.", examples=["musicgen-small"])
    reload: bool = Field(False, description="End the runner of the active model and start it anew.")


class SwitchStepOut(Schema):
    """One stage and how long it took."""

    stage: str
    seconds: float


class SwitchOut(Schema):
    """A switch of the active model. `stage` ends as ready, failed or cancelled."""

    id: int
    model_id: str
    previous_model_id: str | None
    is_reload: bool
    stage: Literal[
        "queued",
        "downloading",
        "verifying",
        "waiting for jobs",
        "loading",
        "ready",
        "failed",
        "cancelled",
    ]
    fraction: float | None = Field(description="Of the stage, where it is known.")
    bytes_done: int | None
    bytes_total: int | None
    elapsed_seconds: float
    remaining_seconds: float | None = Field(
        description="Of the stage, from its pace or this machine's record."
    )
    message: str = Field(description="What is happening, or what happened and what to do.")
    error_code: str | None
    can_cancel: bool
    finished_stages: list[SwitchStepOut]
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, switch: ModelSwitch) -> SwitchOut:
        """Read a row."""
        card = switch_card(switch)
        return cls(
            id=switch.pk,
            model_id=switch.model_id,
            previous_model_id=switch.previous_id,
            is_reload=switch.is_reload,
            stage=switch.stage,  # type: ignore[arg-type]  # a TextChoices value
            fraction=switch.fraction,
            bytes_done=switch.bytes_done,
            bytes_total=switch.bytes_total,
            elapsed_seconds=round(switch.elapsed_seconds, 3),
            remaining_seconds=card.remaining_seconds,
            message=switch.message or card.status_line,
            error_code=switch.error_code or None,
            can_cancel=card.can_cancel,
            finished_stages=[
                SwitchStepOut(stage=stage, seconds=seconds) for stage, seconds in switch.stage_seconds.items()
            ],
            created_at=switch.created_at,
            finished_at=switch.finished_at,
        )


class SwitchAnswerOut(Schema):
    """What became of a request. `switch` is null when the model was active already."""

    outcome: Literal["started", "joined", "already active"]
    message: str
    switch: SwitchOut | None


class CurrentSwitchOut(Schema):
    """The switch under way, else the last one; null when there never was one."""

    switch: SwitchOut | None
