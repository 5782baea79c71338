"""The part of the API with which takes are heard while they are made."""

from __future__ import annotations

from typing import Any

from django.http import Http404, HttpRequest, HttpResponseBase
from ninja import NinjaAPI, Router

from generation.api_schemas import ErrorOut
from generation.live_response import live_response
from generation.models import Job
from generation.services.live import TOO_MANY, NothingToHear

MAX_ID = 2**63 - 1

router = Router(tags=["generations"])


def register_refusals(api: NinjaAPI, refuse: Any) -> None:
    """Answer refusals of this router in the API's shape."""

    @api.exception_handler(NothingToHear)
    def _nothing(request: HttpRequest, refused: NothingToHear) -> Any:
        status = 429 if refused.code == TOO_MANY else 409
        return refuse(request, status, str(refused), refused.code, **refused.facts)


@router.get(
    "/{int:job_id}/live/{int:variation}",
    response={200: None, 400: ErrorOut, 404: ErrorOut, 409: ErrorOut, 429: ErrorOut},
    operation_id="hear_generation",
    url_name="live",
)
def generation_live(request: HttpRequest, job_id: int, variation: int) -> HttpResponseBase:
    """A take while it is made, from its beginning: WAV whose length nobody knows yet. `variation` counts from 0.

    What goes on from a take or a clip is heard from a second before what is new. The answer goes on until the take is
    complete. It ends early when the job is tried again on another engine. 409 while nothing of it can be heard, and
    once the take is ready: `audio_url` then says where.
    """
    job = Job.objects.for_user(request.user).filter(pk=job_id).first() if job_id <= MAX_ID else None
    if job is None or variation >= job.variations:
        raise Http404
    return live_response(job, variation, listener=request.user.pk)
