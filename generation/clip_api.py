"""API of clips: bring in a sound file to go on from, find, hear and delete one's own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from ninja import NinjaAPI, Router, Schema, Status
from ninja.params.functions import Query
from pydantic import Field

from generation.api_schemas import ErrorOut
from generation.audio_response import audio_response
from generation.clips.decoding import ClipRefused
from generation.models import Clip
from generation.services import clips

MAX_CLIPS = 200
MAX_ID = 2**63 - 1
#: Statuses of refusals; what is not here is 400.
_STATUS: Final = {"CLIP_TOO_LARGE": 413, "DISK_FULL": 507}

router = Router(tags=["clips"])


class ClipOut(Schema):
    """A sound file that you brought in, as the studio keeps it."""

    id: int
    title: str = Field(description="The name of the file that it was.")
    duration_seconds: float
    sample_rate: int
    channels: int
    file_bytes: int = Field(description="Of the FLAC file that is kept.")
    sha256: str = Field(description="Of that file; recipes name it.")
    created_at: datetime
    audio_url: str

    @classmethod
    def of(cls, clip: Clip) -> ClipOut:
        """A row."""
        return cls.model_validate(clip, from_attributes=True)


class ClipsOut(Schema):
    """Your clips, newest first."""

    clips: list[ClipOut]
    total: int
    next_before: int | None = Field(description="`before` of the next page; null on the last.")


def register_refusals(api: NinjaAPI, refuse: Callable[..., HttpResponse]) -> None:
    """Teach the API how to answer what is raised here; `refuse(request, status, sentence, code, **facts)` answers."""

    @api.exception_handler(ClipRefused)
    def _refused(request: HttpRequest, refused: ClipRefused) -> HttpResponse:
        return refuse(request, _STATUS.get(refused.code, 400), str(refused), refused.code, **refused.facts)

    @api.exception_handler(clips.ClipFileMissing)
    def _file_missing(request: HttpRequest, problem: clips.ClipFileMissing) -> HttpResponse:
        return refuse(request, 410, str(problem), "CLIP_FILE_MISSING")


@router.get("", response={200: ClipsOut, 400: ErrorOut}, operation_id="list_clips")
def clips_list(
    request: HttpRequest,
    before: int | None = Query(None, ge=1, le=MAX_ID, description="Clips older than this id."),
    limit: int = Query(50, ge=1, le=MAX_CLIPS),
) -> Any:
    """Your clips, newest first."""
    mine = Clip.objects.for_user(request.user)
    total = mine.count()
    rows = list((mine if before is None else mine.filter(pk__lt=before)).order_by("-id")[: limit + 1])
    return {
        "clips": [ClipOut.of(clip) for clip in rows[:limit]],
        "total": total,
        "next_before": rows[limit - 1].pk if len(rows) > limit else None,
    }


_UPLOAD_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "WAV, FLAC, MP3 or OGG, mono or stereo, of 1 second to 10 minutes.",
                        }
                    },
                    "required": ["file"],
                }
            }
        },
    }
}


@router.post(
    "",
    response={
        200: ClipOut,
        201: ClipOut,
        400: ErrorOut,
        413: ErrorOut,
        429: ErrorOut,
        507: ErrorOut,
    },
    operation_id="create_clip",
    openapi_extra=_UPLOAD_BODY,
)
def clip_create(request: HttpRequest) -> Any:
    """Bring in a sound file as a form with the field `file`. 200 when you have the same audio already."""
    clip, is_new = clips.keep_upload(owner=request.user, upload=request.FILES.get("file"))
    return Status(201 if is_new else 200, ClipOut.of(clip))


@router.get("/{int:clip_id}", response={200: ClipOut, 400: ErrorOut, 404: ErrorOut}, operation_id="get_clip")
def clip_detail(request: HttpRequest, clip_id: int) -> Any:
    """One clip."""
    return ClipOut.of(_clip_for_user(request, clip_id))


@router.delete(
    "/{int:clip_id}", response={204: None, 400: ErrorOut, 404: ErrorOut}, operation_id="delete_clip"
)
def clip_delete(request: HttpRequest, clip_id: int) -> Any:
    """Delete it for good. Takes that were made from it stay; a job that waits to begin with it fails."""
    clips.delete_clip(_clip_for_user(request, clip_id))
    return Status(204, None)


@router.api_operation(
    ["GET", "HEAD"],
    "/{int:clip_id}/audio",
    response={
        200: None,
        206: None,
        304: None,
        400: ErrorOut,
        404: ErrorOut,
        410: ErrorOut,
        416: None,
        503: ErrorOut,
    },
    operation_id="get_clip_audio",
    url_name="clip_audio",
)
def clip_audio(request: HttpRequest, clip_id: int) -> HttpResponseBase:
    """The audio as FLAC, whole or by HTTP range."""
    clip = _clip_for_user(request, clip_id)
    try:
        return audio_response(
            request, clips.opened_clip(clip), media_type=clips.MEDIA_TYPE, entity_tag=clip.sha256[:32]
        )
    except FileNotFoundError as gone:  # removed since we looked
        raise clips.ClipFileMissing(clip) from gone


def _clip_for_user(request: HttpRequest, clip_id: int) -> Clip:
    clip = Clip.objects.for_user(request.user).filter(pk=clip_id).first() if clip_id <= MAX_ID else None
    if clip is None:
        raise Http404
    return clip
