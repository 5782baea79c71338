"""API of disk use: what one's own takes use, and what becomes of them."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from ninja import Router, Schema
from pydantic import Field

from generation.services.storage import storage_of

router = Router(tags=["takes"])


class StorageOut(Schema):
    """What your takes and clips use, and the rules for them. Bytes of what is deleted do not count."""

    takes: int
    used_bytes: int = Field(description="Of takes and clips together.")
    favourite_bytes: int
    clip_bytes: int
    max_bytes: int | None = Field(description="Most that your takes and clips may use; null for no limit.")
    keep_takes_days: float | None = Field(
        description="Days after which takes that are not favourites are deleted; null keeps them."
    )
    keep_deleted_hours: float = Field(description="Hours in which a deleted take can be brought back.")
    when_full: str = Field(description="At a limit: `refuse` new jobs, or `remove-oldest` takes.")


@router.get("", response=StorageOut, operation_id="get_storage")
def storage(request: HttpRequest) -> Any:
    """How much disk your takes and clips use."""
    use, studio = storage_of(request.user), settings.STUDIO
    return {
        "takes": use.takes,
        "used_bytes": use.used_bytes,
        "favourite_bytes": use.favourite_bytes,
        "clip_bytes": use.clip_bytes,
        "max_bytes": use.max_bytes,
        "keep_takes_days": studio.keep_takes_days or None,
        "keep_deleted_hours": studio.keep_deleted_hours,
        "when_full": studio.when_full,
    }
