"""Take in a request for music: check it once, for page, API and command alike, and queue it.

Every refusal is a sentence that says what to do. A refused request leaves no row behind.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from gated_configs.log_context import current_request_id
from gated_configs.wording import plain_number
from generation.events import BoardChanged, JobSubmitted
from generation.job_log import note_submission
from generation.models import AdapterTrial, Clip, Job
from generation.models.job import MAX_SEED
from generation.services.continuing import Source, check_melody, check_moment, check_source
from generation.services.job_adapters import AdapterWish, ChosenAdapter, check_adapters, store_adapters
from generation.services.line import tell_who_waits
from generation.services.parameters import (
    GUIDANCE_SCALE,
    SEED,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    Range,
    check_number,
    is_finite,
)
from generation.services.quotas import check_quotas
from generation.services.refusals import GenerationRefused, Refusal
from generation.services.storage import bytes_of, check_storage
from registry.events import send_on_commit
from registry.models import ModelConfig
from registry.services import (
    ModelNotFound,
    ModelNotPlayable,
    NoActiveModel,
    get_active_model,
    get_model_config,
)

#: Part of a window that is new in each after the first; the rest of it is heard again from the one before. audiocraft
#: takes 18 of 30 s.
STRIDE: Final = 0.6


@dataclass(frozen=True)
class Windows:
    """How a take is made: in windows of which each lies `stride_seconds` behind the one before, or, of None, in one piece."""

    window_seconds: float | None = None
    stride_seconds: float | None = None


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
    adapters: tuple[AdapterWish, ...] = ()
    # Whether it may be longer than the model makes in one piece; what goes on from a take always may.
    extend: bool = False
    # Of a take that is made again; None is as the model's limits have it.
    windows: Windows | None = None
    # The take or clip that it goes on from, and from where; None is its end.
    continue_take: int | None = None
    continue_clip: int | None = None
    continue_from_seconds: float | None = None
    # The clip whose melody it follows.
    melody_clip: int | None = None


def submit_job(*, owner: Any, request: GenerationRequest, trial: AdapterTrial | None = None) -> Job:
    """Check the request and queue it as one job. Raises GenerationRefused; then nothing was queued."""
    wanted = check_request(request, owner=owner)
    with transaction.atomic():
        variations = wanted.values["variations"]
        seconds = wanted.values["duration_seconds"] * variations
        begun = (wanted.values.get("continued_from_seconds") or 0.0) * variations
        check_quotas(owner, seconds)
        check_storage(owner, bytes_of(wanted.model, seconds + begun))
        job = Job.objects.create(
            owner=owner,
            model=wanted.model,
            trial=trial,
            request_id=current_request_id(),
            **wanted.values,
        )
        store_adapters(job, wanted.adapters)
        if used := [clip for clip in (job.continued_clip, job.melody_clip) if clip is not None]:
            Clip.objects.filter(pk__in=used).update(used_at=timezone.now())
        send_on_commit(JobSubmitted(), BoardChanged(owner_id=job.owner_id))
        tell_who_waits(but=job.owner_id)
    note_submission(job)
    return job


@dataclass(frozen=True)
class CheckedRequest:
    """A valid request, complete: its model, a value for each other field of a job, and its adapters."""

    model: ModelConfig
    values: dict[str, Any]
    adapters: list[ChosenAdapter]


def check_request(request: GenerationRequest, *, owner: Any = None) -> CheckedRequest:
    """The request with every default filled in. Raises GenerationRefused naming every bad field.

    Without an `owner` there is nothing to go on from, and no clip to follow.
    """
    refusals: dict[str, Refusal] = {}
    values: dict[str, Any] = {}

    prompt = _check_prompt(request.prompt)
    model = _find_model(request.model_id)
    known_model = model if isinstance(model, ModelConfig) else None
    source = check_source(
        owner, request.continue_take, request.continue_clip, request.continue_from_seconds, known_model
    )
    moment = check_moment(source)
    melody = check_melody(owner, request.melody_clip, known_model)
    begun = source.seconds if isinstance(source, Source) and moment is None else 0.0
    duration: float | Refusal
    if known_model is not None:
        may_extend = request.extend or request.windows is not None or begun > 0
        limit = known_model.longest_take_seconds if may_extend else known_model.duration_limit_seconds
        duration = _check_duration(request.duration_seconds, known_model, begun, limit)
    else:
        duration = 1.0  # without a model there is no limit to hold it against; the model's refusal is enough
    checked: dict[str, Any] = {
        "prompt": prompt,
        "continue_take" if request.continue_clip is None else "continue_clip": source,
        "continue_from_seconds": moment,
        "melody_clip": melody,
        "duration_seconds": duration,
        "model": model,
        "seed": check_number(request.seed, SEED, "seed")
        if request.seed is not None
        else secrets.randbelow(MAX_SEED + 1),
        "guidance_scale": check_number(request.guidance_scale, GUIDANCE_SCALE, "guidance_scale"),
        "temperature": check_number(request.temperature, TEMPERATURE, "temperature"),
        "top_k": check_number(request.top_k, TOP_K, "top_k"),
        "top_p": check_number(request.top_p, TOP_P, "top_p"),
        "variations": check_number(request.variations, variations_range(), "variations"),
        "adapters": check_adapters(request.adapters, known_model),
    }
    for name, value in checked.items():
        if isinstance(value, Refusal):
            refusals[name] = value
        else:
            values[name] = value
    if refusals:
        raise GenerationRefused(refusals)
    for name in ("continue_take", "continue_clip", "continue_from_seconds", "melody_clip"):
        values.pop(name, None)
    if isinstance(source, Source):
        values |= source.fields
    if isinstance(melody, Clip):
        values |= {"melody_clip": melody.pk, "melody_sha256": melody.sha256}
    values |= vars(request.windows or _windows(begun + values["duration_seconds"], values["model"]))
    return CheckedRequest(values.pop("model"), adapters=values.pop("adapters"), values=values)


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


def _check_duration(value: Any, model: ModelConfig, begun: float, limit: float) -> float | Refusal:
    """What is added to the `begun` seconds that are there: the limit is that of the whole."""
    if value is None:
        value = model.default_duration_seconds
    facts = {
        "duration_seconds": value,
        "max_duration_seconds": model.duration_limit_seconds,
        "max_extended_seconds": model.extended_limit_seconds,
        "model_id": model.id,
    }
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Refusal("Write the duration as a number of seconds.", "DURATION_INVALID")
    if not is_finite(value):
        return Refusal(
            f"The duration must be a number of seconds, at most {plain_number(limit)}.", "DURATION_INVALID"
        )
    if value <= 0:
        return Refusal("The duration must be more than 0 seconds.", "DURATION_INVALID", facts)
    if begun + value > limit:
        whole = plain_number(round(begun + value, 3))
        parts = f" ({plain_number(round(begun, 3))}s that are there and {plain_number(value)}s more)"
        return Refusal(
            f"Duration {whole}s{parts if begun else ''} exceeds model limit of {plain_number(limit)}s",
            "DURATION_TOO_LONG",
            facts,
        )
    return float(value)


def _windows(duration_seconds: float, model: ModelConfig) -> Windows:
    window = model.duration_limit_seconds
    return Windows() if duration_seconds <= window else Windows(window, round(STRIDE * window, 3))
