"""How fast this machine has been: remaining times are told from its own record, never from a guess."""

from __future__ import annotations

import platform

from generation.models import Take

#: Takes that the record looks back on.
RECENT = 8


def seconds_per_audio_second(model_id: str) -> float | None:
    """Seconds of work for one second of audio with that model on this machine; None before the first take."""
    recent = (
        Take.objects.filter(
            model_id=model_id, host=platform.node(), render_seconds__gt=0, duration_seconds__gt=0
        )
        .order_by("-id")
        .values_list("render_seconds", "duration_seconds")[:RECENT]
    )
    work = sum(render for render, _ in recent)
    audio = sum(duration for _, duration in recent)
    return work / audio if audio else None
