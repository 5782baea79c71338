"""Take in a request for music: check it once, for page, API and command alike, and queue it.

Every refusal is a sentence that says what to do. A refused request leaves no row behind.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass, field
from typing import Any, Final

from django.conf import settings
from django.db import transaction

from gated_configs.wording import plain_number
from generation.events import BoardChanged, JobSubmitted
from generation.models import Job
from generation.models.job import MAX_SEED
from registry.events import send_on_commit
from registry.models import ModelConfig
from registry.services import (
    ModelNotFound,
    ModelNotPlayable,
    NoActiveModel,
    get_active_model,
    get_model_config,
)


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


class QueueFull(GenerationRefused):
    """The person has as many unfinished jobs as the studio allows."""


@dataclass(frozen=True)
class GenerationRequest:
    """What somebody asks for, as it came in. None means "the default"."""

    prompt: str
    duration_seconds: float | None = None
    model_id: str | None = None
    seed: int | None = None
    guidance_scale: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    variations: int | None = None


def submit_job(*, owner: Any, request: GenerationRequest) -> Job:
    """Check the request and queue it as one job. Raises GenerationRefused; then nothing was queued."""
    model, values = check_request(request)
    with transaction.atomic():
        limit = settings.STUDIO.max_queued_jobs
        if Job.objects.for_user(owner).unfinished().count() >= limit:
            raise QueueFull(
                {
                    "__all__": Refusal(
                        f"The queue holds {limit} of your jobs, which is the limit. Wait for one to finish or cancel one.",
                        "QUEUE_FULL",
                        {"max_queued_jobs": limit},
                    )
                }
            )
        job = Job.objects.create(owner=owner, model=model, **values)
        send_on_commit(JobSubmitted(), BoardChanged(owner_id=job.owner_id))
    return job


def check_request(request: GenerationRequest) -> tuple[ModelConfig, dict[str, Any]]:
    """The model and the complete parameters of a valid request. Raises GenerationRefused naming every bad field."""
    refusals: dict[str, Refusal] = {}
    values: dict[str, Any] = {}

    prompt = _check_prompt(request.prompt)
    model = _find_model(request.model_id)
    duration: float | Refusal
    if isinstance(model, ModelConfig):
        duration = _check_duration(request.duration_seconds, model)
    else:
        duration = 1.0  # without a model there is no limit to hold it against; the model's refusal is enough
    checked: dict[str, Any] = {
        "prompt": prompt,
        "duration_seconds": duration,
        "model": model,
        "seed": _check_number(request.seed, SEED, "seed")
        if request.seed is not None
        else secrets.randbelow(MAX_SEED + 1),
        "guidance_scale": _check_number(request.guidance_scale, GUIDANCE_SCALE, "guidance_scale"),
        "temperature": _check_number(request.temperature, TEMPERATURE, "temperature"),
        "top_k": _check_number(request.top_k, TOP_K, "top_k"),
        "top_p": _check_number(request.top_p, TOP_P, "top_p"),
        "variations": _check_number(request.variations, variations_range(), "variations"),
    }
    for name, value in checked.items():
        if isinstance(value, Refusal):
            refusals[name] = value
        else:
            values[name] = value
    if refusals:
        raise GenerationRefused(refusals)
    return values.pop("model"), values


def variations_range() -> Range:
    """How many takes one job may ask for."""
    return Range("Variations", 1, settings.STUDIO.max_variations, 1, whole=True)


def _check_prompt(prompt: str) -> str | Refusal:
    text = prompt.strip()
    if not text:
        return Refusal("Write a prompt: a few words on what the music should sound like.", "PROMPT_EMPTY")
    limit = settings.STUDIO.max_prompt_characters
    if len(text) > limit:
        return Refusal(
            f"The prompt has {len(text)} characters and the limit is {limit}. Shorten it by {len(text) - limit}.",
            "PROMPT_TOO_LONG",
            {"prompt_characters": len(text), "max_prompt_characters": limit},
        )
    if not is_text(text):
        return Refusal(
            "The prompt holds a character that is not text. Type it again without pasted control characters.",
            "PROMPT_NOT_TEXT",
        )
    return text


def is_text(text: str) -> bool:
    """Whether every database can store it: no NUL, no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _find_model(model_id: str | None) -> ModelConfig | Refusal:
    try:
        model = get_active_model() if model_id is None else get_model_config(model_id)
        if not model.is_playable:
            raise ModelNotPlayable(model)
    except ModelNotFound as problem:
        return Refusal(str(problem), "MODEL_NOT_FOUND", {"model_id": model_id})
    except ModelNotPlayable as problem:
        return Refusal(str(problem), "MODEL_NOT_PLAYABLE", {"model_id": model_id})
    except NoActiveModel as problem:
        return Refusal(str(problem), "NO_ACTIVE_MODEL")
    return model


def _check_duration(value: Any, model: ModelConfig) -> float | Refusal:
    if value is None:
        return model.default_duration_seconds
    limit = model.duration_limit_seconds
    facts = {"duration_seconds": value, "max_duration_seconds": limit, "model_id": model.id}
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Refusal("Write the duration as a number of seconds.", "DURATION_INVALID")
    if not _is_finite(value):
        return Refusal(
            f"The duration must be a number of seconds, at most {plain_number(limit)}.", "DURATION_INVALID"
        )
    if value <= 0:
        return Refusal("The duration must be more than 0 seconds.", "DURATION_INVALID", facts)
    if value > limit:
        return Refusal(
            f"Duration {plain_number(value)}s exceeds model limit of {plain_number(limit)}s",
            "DURATION_TOO_LONG",
            facts,
        )
    return float(value)


def _check_number(value: Any, allowed: Range, name: str) -> float | int | Refusal:
    if value is None:
        value = allowed.default
    low, high = plain_number(allowed.minimum), plain_number(allowed.maximum)
    kind = "a whole number" if allowed.whole else "a number"
    facts = {"field": name, "minimum": allowed.minimum, "maximum": allowed.maximum}
    refusal = Refusal(
        f"{allowed.label} must be {kind} from {low} to {high}.", "PARAMETER_OUT_OF_RANGE", facts
    )
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        return refusal
    if not allowed.minimum <= value <= allowed.maximum or (allowed.whole and value != int(value)):
        return refusal
    return int(value) if allowed.whole else float(value)


def _is_finite(value: float) -> bool:
    """Whether it is a number that a float can hold; JSON and the command line know longer whole ones."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
