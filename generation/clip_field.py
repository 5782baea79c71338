"""The studio's fields for clips, one to go on from and one to follow: whose a clip is, and with what values they begin."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest

from gated_configs.wording import plain_number, spoken_bytes
from generation.model_limits import limits_context
from generation.models import Clip


@dataclass(frozen=True)
class ClipUse:
    """What a clip is for. `key` names it in addresses and on the page, `field` in the studio's form."""

    key: str
    field: str
    # Of the input that brings it in: both may stand in one form.
    file_field: str
    offer: str
    chosen: str
    hint: str
    # Whether it is used from a moment on.
    has_moment: bool = False


CONTINUED: Final = ClipUse(
    key="clip",
    field="continue_clip",
    file_field="file",
    offer="Start from a clip",
    chosen="Goes on from the clip",
    hint="The duration is what is added after that moment.",
    has_moment=True,
)
MELODY: Final = ClipUse(
    key="melody",
    field="melody_clip",
    file_field="melody_file",
    offer="Follow a melody",
    chosen="Follows the melody of",
    hint="One clear tune works best.",
)


def clip_of_user(request: HttpRequest, text: str) -> Clip | None:
    """The person's own clip of that number; None for what is none."""
    is_number = text.isascii() and text.isdigit() and len(text) < 19
    return Clip.objects.for_user(request.user).filter(pk=int(text)).first() if is_number else None


def clips_again(request: HttpRequest, recipe: dict[str, Any]) -> dict[str, str]:
    """The form's values for the clips that a recipe names, as far as they are still there."""
    values: dict[str, str] = {}
    continued, melody = recipe.get("continued", {}), recipe.get("melody")
    if "clip" in continued and (clip := _clip_again(request, continued)):
        values |= clip_values(clip, continued["from_seconds"])
    if melody and (clip := _clip_again(request, melody)):
        values |= {MELODY.field: str(clip.pk)}
    return values


def _clip_again(request: HttpRequest, named: dict[str, Any]) -> Clip | None:
    return Clip.objects.for_user(request.user).filter(sha256=named["sha256"]).first()


def clip_values(clip: Clip, seconds: float | None = None) -> dict[str, str]:
    """The form's values to go on from a clip: from its end, or from where the model has room for what it adds."""
    if seconds is None:
        model = limits_context()["model"]
        room = model["longest_seconds"] - model["recommended_duration_seconds"] if model else math.inf
        # Never a bit past its end.
        seconds = max(1.0, math.floor(100 * min(clip.duration_seconds, room)) / 100)
    return {"continue_clip": str(clip.pk), "continue_from_seconds": plain_number(seconds)}


def clip_context(use: ClipUse, clip: Clip | None, *, seconds: str = "", error: str = "") -> dict[str, Any]:
    """What the field's template needs; `error` stands in place of its hint."""
    most = int(settings.STUDIO.max_clip_bytes)
    return {
        "use": use,
        "clip": clip,
        "clip_seconds": seconds,
        "clip_error": error,
        "max_clip_bytes": most,
        "max_clip_size": spoken_bytes(most),
    }
