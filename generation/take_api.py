"""API of takes: find, hear, rename, mark, delete and bring back one's own."""

from __future__ import annotations

from typing import Any

from django.http import Http404, HttpRequest, HttpResponseBase
from django.utils.text import slugify
from ninja import Router
from ninja.params.functions import Query

from generation import audio_files
from generation.api_schemas import ErrorOut, TakeChangeIn, TakeOut, TakesOut
from generation.audio_response import audio_response
from generation.models import Take, TakeQuerySet
from generation.services import takes

MAX_TAKES = 200
MAX_ID = 2**63 - 1

router = Router(tags=["takes"])


@router.get("", response={200: TakesOut, 400: ErrorOut}, operation_id="list_takes")
def takes_list(
    request: HttpRequest,
    q: str = Query("", max_length=200, description="Words that the prompt or title must hold."),
    model: str = Query("", max_length=80, description="Model id."),
    adapter: int | None = Query(None, ge=1, le=MAX_ID, description="Only those made with this adapter."),
    favourites: bool = False,
    deleted: bool = Query(False, description="Those that were deleted and can still be restored, instead."),
    before: int | None = Query(None, ge=1, le=MAX_ID, description="Takes older than this id."),
    limit: int = Query(50, ge=1, le=MAX_TAKES),
) -> Any:
    """Your takes, newest first."""
    mine = Take.objects.for_user(request.user)
    found = (mine.restorable() if deleted else mine.kept()).matching(q.replace("\0", ""))
    if model:
        found = found.filter(model_id=model.replace("\0", ""))
    if adapter is not None:
        found = found.made_with(adapter)
    if favourites:
        found = found.filter(is_favourite=True)
    total = found.count()
    if before is not None:
        found = found.filter(pk__lt=before)
    rows = list(found.order_by("-id")[: limit + 1])
    return {
        "takes": [TakeOut.of(take) for take in rows[:limit]],
        "total": total,
        "next_before": rows[limit - 1].pk if len(rows) > limit else None,
    }


@router.get("/{int:take_id}", response={200: TakeOut, 400: ErrorOut, 404: ErrorOut}, operation_id="get_take")
def take_detail(request: HttpRequest, take_id: int) -> Any:
    """One take and its recipe."""
    return TakeOut.of(_take_for_user(request, take_id))


@router.patch(
    "/{int:take_id}",
    response={200: TakeOut, 400: ErrorOut, 404: ErrorOut, 413: ErrorOut},
    operation_id="change_take",
)
def take_change(request: HttpRequest, take_id: int, wanted: TakeChangeIn) -> Any:
    """Rename it, mark it as a favourite or no longer. What is left out stays as it is."""
    take = _take_for_user(request, take_id)
    return TakeOut.of(takes.change_take(take, title=wanted.title, is_favourite=wanted.is_favourite))


@router.delete(
    "/{int:take_id}", response={200: TakeOut, 400: ErrorOut, 404: ErrorOut}, operation_id="delete_take"
)
def take_delete(request: HttpRequest, take_id: int) -> Any:
    """Take it out of the library. It can be restored until `removed_after`; then its file is removed."""
    return TakeOut.of(takes.delete_take(_take_for_user(request, take_id)))


@router.post(
    "/{int:take_id}/restore",
    response={200: TakeOut, 400: ErrorOut, 404: ErrorOut},
    operation_id="restore_take",
)
def take_restore(request: HttpRequest, take_id: int) -> Any:
    """Bring a deleted take back. One that was not deleted stays as it is."""
    mine = Take.objects.for_user(request.user)
    return TakeOut.of(takes.restore_take(_one_of(mine.kept() | mine.restorable(), take_id)))


@router.api_operation(
    ["GET", "HEAD"],
    "/{int:take_id}/audio",
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
    operation_id="get_take_audio",
    url_name="take_audio",
)
def take_audio(
    request: HttpRequest,
    take_id: int,
    format: str = Query("wav", max_length=20, description="wav, flac, ogg or mp3."),
    download: bool = Query(False, description="Ask the browser to save it as a file."),
) -> HttpResponseBase:
    """The audio, whole or by HTTP range. Every format carries the recipe in its metadata."""
    take = _take_for_user(request, take_id)
    wanted = audio_files.audio_format(format)
    name = slugify(take.display_title)[:60].strip("-") or "take"
    try:
        return audio_response(
            request,
            takes.opened_in_format(take, wanted),
            media_type=wanted.media_type,
            entity_tag=f"{take.sha256[:32]}-{wanted.name}",
            download_name=f"{name}-{take.pk}.{wanted.name}" if download else "",
        )
    except FileNotFoundError as gone:  # removed since we looked, by who deleted it or by a rule
        raise takes.TakeFileMissing(take) from gone


def _take_for_user(request: HttpRequest, take_id: int) -> Take:
    return _one_of(Take.objects.for_user(request.user).kept(), take_id)


def _one_of(rows: TakeQuerySet, take_id: int) -> Take:
    take = rows.filter(pk=take_id).first() if take_id <= MAX_ID else None
    if take is None:
        raise Http404
    return take
