"""The JSON API under /api/: schema in, service, schema out. Every refusal has the one error shape."""

from __future__ import annotations

import json
import logging
from typing import Any

from django.core.exceptions import BadRequest, RequestDataTooBig
from django.http import Http404, HttpRequest, HttpResponse
from django.http.multipartparser import MultiPartParserError
from ninja import NinjaAPI, Router, Status
from ninja.errors import HttpError, ValidationError
from ninja.parser import Parser

from adapters import api as adapters_api
from gated_configs import api as memory_api
from generation import (
    adapter_api,
    audio_files,
    cards,
    clip_api,
    live_api,
    storage_api,
    switch_api,
    take_api,
    webhook_api,
)
from generation.api_schemas import (
    ErrorOut,
    GenerationIn,
    GenerationOut,
    ModelOut,
    ModelsOut,
    SwitchOut,
)
from generation.models import Job
from generation.services import jobs, models, submission, takes
from generation.services.job_adapters import AdapterWish
from generation.services.refusals import GenerationRefused, QuotaReached, StorageFull
from generation.services.submission import GenerationRequest
from generation.version import VERSION
from registry.media import MEDIA_AWAY, MediaAway
from registry.services import ModelNotFound, ModelNotPlayable, SwitchUnderWay, get_model_config

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024
TOO_LARGE = f"The request is larger than {MAX_BODY_BYTES // 1024} kB. Shorten the prompt."
MAX_TAKES = 200
MAX_ID = 2**63 - 1


def _example(path: str) -> str:
    if path.startswith("/api/models/"):
        return '{"model_id": "facebook/musicgen-small"}'
    return '{"prompt": "slow piano"}'


class BoundedParser(Parser):
    """JSON bodies of bounded size and depth; what is not an object is refused with a sentence."""

    def parse_body(self, request: HttpRequest) -> Any:
        """The body as JSON. Raises HttpError 413 or 400."""
        if len(request.body) > MAX_BODY_BYTES:
            raise HttpError(413, TOO_LARGE)
        try:
            return json.loads(request.body)
        except (ValueError, RecursionError):
            raise HttpError(
                400, f"The request is not JSON. Send an object such as {_example(request.path)}."
            ) from None


class StudioAPI(NinjaAPI):
    """Ninja's, with what holds for every route in its document."""

    def get_openapi_schema(self, **options: Any) -> Any:
        """The document. While the database is away no route answers."""
        document = super().get_openapi_schema(**options)
        schema = {"$ref": "#/components/schemas/ErrorOut"}
        away = {"description": "The database is away.", "content": {"application/json": {"schema": schema}}}
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].setdefault(503, away)
        return document


api = StudioAPI(
    title="MusicGen Studio",
    version=VERSION,
    description=(
        'Text to music over HTTP. A refusal is always `{"error": sentence, "error_code": CODE, ...facts}`.'
        " In local mode no login is needed; in shared mode a token of the account page, or the session's login."
    ),
    urls_namespace="api",
    parser=BoundedParser(),
)


def _refuse(request: HttpRequest, status: int, error: str, code: str, /, **facts: Any) -> HttpResponse:
    return api.create_response(request, {"error": error, "error_code": code, **facts}, status=status)


adapters_api.register_refusals(api, _refuse)
clip_api.register_refusals(api, _refuse)
live_api.register_refusals(api, _refuse)
memory_api.register_refusals(api, _refuse)
webhook_api.register_refusals(api, _refuse)


@api.exception_handler(GenerationRefused)
def _generation_refused(request: HttpRequest, refused: GenerationRefused) -> HttpResponse:
    errors = {_api_name(name): refusal.message for name, refusal in refused.refusals.items()}
    status = 429 if isinstance(refused, QuotaReached) else 507 if isinstance(refused, StorageFull) else 400
    facts = {name: _finite(value) for name, value in refused.first.facts.items()}
    return _refuse(request, status, str(refused), refused.first.code, **{**facts, "errors": errors})


@api.exception_handler(ModelNotFound)
def _model_not_found(request: HttpRequest, problem: ModelNotFound) -> HttpResponse:
    return _refuse(request, 404, str(problem), "MODEL_NOT_FOUND", model_id=problem.model_id)


@api.exception_handler(Http404)
def _not_found(request: HttpRequest, problem: Http404) -> HttpResponse:
    return _refuse(request, 404, "There is nothing here, or it is not yours.", "NOT_FOUND")


@api.exception_handler(takes.TakeFileMissing)
def _file_missing(request: HttpRequest, problem: takes.TakeFileMissing) -> HttpResponse:
    return _refuse(request, 410, str(problem), "TAKE_FILE_MISSING")


@api.exception_handler(MediaAway)
def _media_away(request: HttpRequest, problem: MediaAway) -> HttpResponse:
    logger.warning("503: %s", problem.in_full)
    return _refuse(request, 503, str(problem), MEDIA_AWAY)


@api.exception_handler(takes.TakeGone)
def _take_gone(request: HttpRequest, problem: takes.TakeGone) -> HttpResponse:
    return _refuse(request, 404, str(problem), "NOT_FOUND")


@api.exception_handler(takes.TitleRefused)
def _title_refused(request: HttpRequest, refused: takes.TitleRefused) -> HttpResponse:
    return _refuse(request, 400, str(refused), "TITLE_REFUSED", errors={"title": str(refused)})


@api.exception_handler(audio_files.UnknownFormat)
def _unknown_format(request: HttpRequest, problem: audio_files.UnknownFormat) -> HttpResponse:
    return _refuse(request, 400, str(problem), "UNKNOWN_FORMAT", formats=list(audio_files.FORMATS))


@api.exception_handler(ValidationError)
def _invalid(request: HttpRequest, problem: ValidationError) -> HttpResponse:
    errors = {}
    for item in problem.errors:
        # Without the parameters of our own functions, which mean nothing to who sent the request.
        place = [str(part) for part in item["loc"] if part not in ("body", "query", "path", "wanted")]
        errors[".".join(place) or "request"] = f"{item['msg']}."
    name, sentence = next(iter(errors.items()))
    return _refuse(request, 400, f"{name}: {sentence}", "INVALID_REQUEST", errors=errors)


@api.exception_handler(HttpError)
def _http_error(request: HttpRequest, problem: HttpError) -> HttpResponse:
    if isinstance(problem.__cause__, HttpError):  # ninja hides what our parser says behind words of its own
        problem = problem.__cause__
    code = {413: "REQUEST_TOO_LARGE"}.get(problem.status_code, "INVALID_REQUEST")
    return _refuse(request, problem.status_code, str(problem), code)


@api.exception_handler(RequestDataTooBig)
def _too_big(request: HttpRequest, problem: RequestDataTooBig) -> HttpResponse:
    return _refuse(request, 413, TOO_LARGE, "REQUEST_TOO_LARGE")


@api.exception_handler(BadRequest)
@api.exception_handler(MultiPartParserError)
def _bad_request(request: HttpRequest, problem: Exception) -> HttpResponse:
    return _refuse(request, 400, "The request could not be read. Send JSON.", "INVALID_REQUEST")


def _api_name(name: str) -> str:
    return {"model_id": "model", "__all__": "request"}.get(name, name)


def _finite(value: Any) -> Any:
    """JSON has no infinity: what is refused for being one is answered as null."""
    return None if isinstance(value, float) and value in (float("inf"), float("-inf")) else value


@api.exception_handler(SwitchUnderWay)
def _switch_under_way(request: HttpRequest, problem: SwitchUnderWay) -> HttpResponse:
    switch = SwitchOut.of(problem.switch).model_dump(mode="json")
    return _refuse(request, 409, str(problem), "SWITCH_UNDER_WAY", switch=switch)


@api.exception_handler(ModelNotPlayable)
def _not_playable(request: HttpRequest, problem: ModelNotPlayable) -> HttpResponse:
    return _refuse(request, 400, str(problem), "MODEL_NOT_PLAYABLE", model_id=problem.model_id)


@api.exception_handler(switch_api.NotAllowed)
def _not_allowed(request: HttpRequest, problem: switch_api.NotAllowed) -> HttpResponse:
    return _refuse(request, 403, str(problem), "STAFF_ONLY")


@api.exception_handler(switch_api.NothingToCancel)
def _nothing_to_cancel(request: HttpRequest, problem: switch_api.NothingToCancel) -> HttpResponse:
    return _refuse(request, 409, str(problem), "NOTHING_TO_CANCEL")


# Models. The routes of switches and of memory come first: a model's id may be any path.

api.add_router("/models", switch_api.router)
api.add_router("/models", memory_api.router)


@api.get("/models", response=ModelsOut, tags=["models"], operation_id="list_models")
def models_list(request: HttpRequest) -> Any:
    """Every model the studio knows, and which one is active."""
    rows = models.list_model_facts()
    return {
        "models": rows,
        "current_model": next((row["id"] for row in rows if row["is_active"]), None),
    }


models_router = Router(tags=["models"])


@models_router.get(
    "/{path:model_id}",
    response={200: ModelOut, 404: ErrorOut},
    operation_id="get_model",
)
def model_detail(request: HttpRequest, model_id: str) -> Any:
    """One model, by its id or its Hugging Face id."""
    return models.facts_of(get_model_config(model_id[:300].replace("\0", "")))


api.add_router("/models", models_router)


# Adapters, and what is made with them.

api.add_router("/adapters", adapters_api.router)
api.add_router("/trials", adapter_api.trials_router)
api.add_router("/clips", clip_api.router)
api.add_router("/storage", storage_api.router)
api.add_router("/takes", take_api.router)
api.add_router("/webhooks", webhook_api.router)


# Generations.

api.add_router("/generations", live_api.router)


@api.post(
    "/generations",
    response={202: GenerationOut, 400: ErrorOut, 413: ErrorOut, 429: ErrorOut, 507: ErrorOut},
    tags=["generations"],
    operation_id="create_generation",
)
def generation_create(request: HttpRequest, wanted: GenerationIn) -> Any:
    """Queue a job. The answer comes at once; follow it with `GET /api/generations/{id}`."""
    values = wanted.dict()
    wishes = tuple(AdapterWish(**adapter) for adapter in values.pop("adapters"))
    job = submission.submit_job(
        owner=request.user,
        request=GenerationRequest(model_id=values.pop("model"), adapters=wishes, **values),
    )
    return Status(202, GenerationOut.of(job, cards.card_of(job)))


@api.get(
    "/generations/{int:job_id}",
    response={200: GenerationOut, 400: ErrorOut, 404: ErrorOut},
    tags=["generations"],
    operation_id="get_generation",
)
def generation_detail(request: HttpRequest, job_id: int) -> Any:
    """How far a job is, and its takes."""
    job = _job_for_user(request, job_id)
    return GenerationOut.of(job, cards.card_of(job))


@api.post(
    "/generations/{int:job_id}/cancel",
    response={202: GenerationOut, 400: ErrorOut, 404: ErrorOut, 409: ErrorOut},
    tags=["generations"],
    operation_id="cancel_generation",
)
def generation_cancel(request: HttpRequest, job_id: int) -> Any:
    """End a job within a step of its engine. What was made so far is kept as a partial take."""
    job = _job_for_user(request, job_id)
    if not jobs.request_cancel(job):
        return _refuse(
            request, 409, f"The job has already ended: it is {job.status}.", "JOB_ENDED", status=job.status
        )
    job = _job_for_user(request, job_id)
    return Status(202, GenerationOut.of(job, cards.card_of(job)))


def _job_for_user(request: HttpRequest, job_id: int) -> Job:
    job = (
        Job.objects.for_user(request.user).complete().filter(pk=job_id).first() if job_id <= MAX_ID else None
    )
    if job is None:
        raise Http404
    return job
