"""The studio's field for a clip: whose it is, and with what values the form begins when one was chosen."""

from __future__ import annotations

import math
from typing import Any

from django.conf import settings
from django.http import HttpRequest

from gated_configs.wording import plain_number, spoken_bytes
from generation.model_limits import limits_context
from generation.models import Clip


def clip_of_user(request: HttpRequest, text: str) -> Clip | None:
    """The person's own clip of that number; None for what is none."""
    is_number = text.isascii() and text.isdigit() and len(text) < 19
    return Clip.objects.for_user(request.user).filter(pk=int(text)).first() if is_number else None


def clip_again(request: HttpRequest, continued: dict[str, Any]) -> dict[str, str]:
    """The form's values to go on from the clip that a recipe names, if it is still there."""
    clip = Clip.objects.for_user(request.user).filter(sha256=continued["sha256"]).first()
    return {} if clip is None else clip_values(clip, continued["from_seconds"])


def clip_values(clip: Clip, seconds: float | None = None) -> dict[str, str]:
    """The form's values to go on from a clip: from its end, or from where the model has room for what it adds."""
    if seconds is None:
        model = limits_context()["model"]
        room = model["longest_seconds"] - model["recommended_duration_seconds"] if model else math.inf
        # Never a bit past its end.
        seconds = max(1.0, math.floor(100 * min(clip.duration_seconds, room)) / 100)
    return {"continue_clip": str(clip.pk), "continue_from_seconds": plain_number(seconds)}


def clip_context(clip: Clip | None, *, seconds: str = "", error: str = "") -> dict[str, Any]:
    """What the field's template needs; `error` stands in place of its hint."""
    most = int(settings.STUDIO.max_clip_bytes)
    return {
        "clip": clip,
        "clip_seconds": seconds,
        "clip_error": error,
        "max_clip_bytes": most,
        "max_clip_size": spoken_bytes(most),
    }
