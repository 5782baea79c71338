"""The JSON API of model configs and memory: validate, submit, check, read, calculate, analyse, compare.

Its routes stand under /api/models, before the one of a single model, whose id may be any path.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, JsonResponse
from ninja import NinjaAPI, Router

from gated_configs.api_figures import AnalyzeOut, CalculateOut, CompareOut, compared
from gated_configs.api_schemas import (
    AnalyzeIn,
    CalculateIn,
    CompareIn,
    ConfigCheckOut,
    ConfigOut,
    ErrorOut,
    SubmitIn,
    SubmitOut,
    SubmitRefusedOut,
    ValidateIn,
    ValidateOut,
)
from gated_configs.memory import CalculatorError, check_config, describe
from gated_configs.refusals import Refusal, refusal_of
from gated_configs.services.analysis import analyse
from gated_configs.services.calculation import calculate
from gated_configs.services.comparison import compare
from gated_configs.services.lookup import FoundConfig, LookupFailed, find_config, has_config
from gated_configs.services.model_ids import InvalidModelId, normalised_id
from gated_configs.services.questions import InvalidQuestion
from gated_configs.services.rate_limits import TooManyRequests
from gated_configs.services.submission import submit_config
from gated_configs.submission_body import SubmissionUnreadable, read_submission
from gated_configs.submission_bounds import SUBMISSION_URL

router = Router(tags=["memory"])

T = TypeVar("T")
Refuse = Callable[..., HttpResponse]
#: Answered for a gated model, word for word.
_GATED: Final = "Model is gated and requires access approval"
_NO_CONFIG_FOUND: Final = {403: ErrorOut, 404: ErrorOut, 422: ErrorOut, 429: ErrorOut, 503: ErrorOut}


def register_refusals(api: NinjaAPI, refuse: Refuse) -> None:
    """Teach the API how to answer what is raised here; `refuse(request, status, sentence, code, **facts)` answers."""

    def answer(request: HttpRequest, error: Any) -> HttpResponse:
        refusal = refusal_of(error)
        if refusal is None:
            raise error
        response = refuse(request, refusal.status, refusal.sentence, refusal.code, **refusal.facts)
        return _with_retry_after(response, refusal)

    for kind in (InvalidModelId, InvalidQuestion, LookupFailed, TooManyRequests, CalculatorError):
        api.exception_handler(kind)(answer)


@router.post(
    "/validate",
    response={
        200: ValidateOut,
        400: ValidateOut,
        404: ValidateOut,
        413: ErrorOut,
        422: ValidateOut,
        429: ValidateOut,
        503: ValidateOut,
    },
    exclude_unset=True,
    operation_id="validate_model",
)
def model_validate(request: HttpRequest, wanted: ValidateIn) -> Any:
    """Whether a model's config is at hand. A gated model answers 200 with `valid: false` and where to submit one."""
    model_id = None
    try:
        model_id = normalised_id(wanted.model_url)
        found = find_config(user=_user(request), model_id=model_id)
        check_config(found.config)
    except (InvalidModelId, LookupFailed, CalculatorError) as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        return _invalid_model(model_id, refusal)
    return {
        "valid": True,
        "error": None,
        "error_code": None,
        "model_id": model_id,
        "requires_config": False,
        "config_submission_url": None,
        "source": found.source.value,
    }


def _invalid_model(model_id: str | None, refusal: Refusal) -> HttpResponse:
    is_gated = refusal.code == "MODEL_GATED"
    facts = {
        "valid": False,
        "error": _GATED if is_gated else refusal.sentence,
        "error_code": refusal.code,
        "model_id": model_id,
        "requires_config": refusal.requires_config,
        "config_submission_url": SUBMISSION_URL if refusal.requires_config else None,
        "source": None,
        **{name: refusal.facts.get(name) for name in ("reason", "next_step", "model_page")},
    }
    response = JsonResponse(facts, status=200 if is_gated else refusal.status)
    return _with_retry_after(response, refusal)


#: Ninja would parse the body before it is measured, and forget what stood in it twice.
_SUBMIT_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": SubmitIn.model_json_schema()}},
    }
}


@router.post(
    "/config/submit",
    response={
        200: SubmitOut,
        400: SubmitRefusedOut,
        409: SubmitRefusedOut,
        413: SubmitRefusedOut,
        422: SubmitRefusedOut,
        429: SubmitRefusedOut,
        503: SubmitRefusedOut,
    },
    operation_id="submit_config",
    openapi_extra=_SUBMIT_BODY,
)
def config_submit(request: HttpRequest) -> Any:
    """Check a config.json of up to 4 MB and save it as yours, for models whose own is gated or cannot be reached."""
    try:
        submission = read_submission(request)
        submitted = submit_config(
            user=_user(request),
            model_id=normalised_id(submission.model_uri),
            config=submission.config_text,
            address=request.META.get("REMOTE_ADDR", ""),
        )
    except (SubmissionUnreadable, InvalidModelId, TooManyRequests, CalculatorError) as error:
        refusal = error.refusal if isinstance(error, SubmissionUnreadable) else refusal_of(error)
        if refusal is None:
            raise
        return _not_submitted(refusal)
    version, architecture = submitted.version, submitted.architecture
    model_id = submitted.config.model_id
    return {
        "success": True,
        "message": f"The config of {model_id} is saved as your version {version.number}."
        if submitted.is_new_version
        else f"This config of {model_id} was saved already, as your version {version.number}.",
        "model_id": model_id,
        "validation": {
            "valid": True,
            "model_type": architecture.model_type,
            "attention_type": architecture.attention_type,
            "parameter_count": architecture.parameters.total,
        },
    }


def _not_submitted(refusal: Refusal) -> HttpResponse:
    facts = {
        "success": False,
        "message": refusal.sentence,
        "error": refusal.sentence,
        "error_code": refusal.code,
        "required_fields": [],
        "missing_fields": [],
        "errors": {"config": refusal.sentence},
        **refusal.facts,
    }
    # What is wrong with a paste is a wrong request; what is wrong with a config that was found is not.
    status = 400 if refusal.code == "INVALID_CONFIG" else refusal.status
    if "TOO_LARGE" in refusal.facts.get("problems", ()):
        status, facts["error_code"] = 413, "CONFIG_TOO_LARGE"
    return _with_retry_after(JsonResponse(facts, status=status), refusal)


@router.get(
    "/config/check/{path:model_id}",
    response={200: ConfigCheckOut, 400: ErrorOut, 404: ErrorOut},
    operation_id="check_config",
)
def config_check(request: HttpRequest, model_id: str) -> Any:
    """Whether a config is saved that you get: your own, or one that an admin shared."""
    model_id = normalised_id(model_id)
    saved = has_config(user=_user(request), model_id=model_id)
    return ConfigCheckOut(
        has_config=saved is not None,
        model_id=model_id,
        submitted_at=saved.submitted_at if saved is not None else None,
        is_verified=saved.is_verified if saved is not None else False,
    )


@router.post(
    "/calculate",
    response={200: CalculateOut, 400: ErrorOut, 413: ErrorOut, **_NO_CONFIG_FOUND},
    operation_id="calculate_memory",
)
def memory_calculate(request: HttpRequest, wanted: CalculateIn) -> Any:
    """The memory of a model for one question, part by part, what it fits on, and what to change."""
    return CalculateOut.of(
        calculate(user=_user(request), model_id=wanted.model_id, question=wanted.question())
    )


@router.post(
    "/analyze",
    response={200: AnalyzeOut, 400: ErrorOut, 413: ErrorOut, **_NO_CONFIG_FOUND},
    operation_id="analyze_memory",
)
def memory_analyze(request: HttpRequest, wanted: AnalyzeIn) -> Any:
    """A grid of totals over batch sizes and lengths, each against a card, and what stands out in it."""
    found = analyse(
        user=_user(request),
        model_id=wanted.model_id,
        question=wanted.question(),
        batch_sizes=_tuple(wanted.batch_sizes),
        seq_lengths=_tuple(wanted.seq_lengths),
        durations_seconds=_tuple(wanted.durations_seconds),
    )
    return AnalyzeOut.of(found)


@router.post(
    "/compare",
    response={200: CompareOut, 400: ErrorOut, 413: ErrorOut},
    operation_id="compare_memory",
)
def memory_compare(request: HttpRequest, wanted: CompareIn) -> Any:
    """Up to ten models under one question, a row each. What goes wrong with one is told in its row."""
    found = compare(user=_user(request), model_ids=wanted.models, question=wanted.question())
    return CompareOut(models=[compared(row) for row in found.rows])


@router.get(
    "/{path:model_id}/config",
    response={200: ConfigOut, 400: ErrorOut, **_NO_CONFIG_FOUND},
    operation_id="get_model_config",
)
def config_detail(request: HttpRequest, model_id: str) -> Any:
    """A model's config, where it comes from, and what was read from it."""
    found: FoundConfig = find_config(user=_user(request), model_id=normalised_id(model_id))
    architecture = describe(found.config)
    return {
        "model_id": found.model_id,
        "model_type": architecture.model_type,
        "attention_type": architecture.attention_type,
        "parameter_count": architecture.parameters.total,
        "architecture": architecture.as_json(),
        "config": _finite(found.config),
        "source": found.source.value,
        "source_detail": found.source_sentence,
    }


def _user(request: HttpRequest) -> User:
    return cast(User, request.user)


def _tuple(values: list[T] | None) -> tuple[T, ...] | None:
    return tuple(values) if values is not None else None


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity. What was checked is not nested deeply."""
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_retry_after(response: HttpResponse, refusal: Refusal) -> HttpResponse:
    if refusal.retry_after_seconds is not None:
        response["Retry-After"] = str(refusal.retry_after_seconds)
    return response
