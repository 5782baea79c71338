"""How fast this machine has been: remaining times are told from its own record, never from a guess."""

from __future__ import annotations

import platform

from generation.models import Take

#: Takes that the record looks back on.
RECENT = 8


def seconds_per_audio_second(model_id: str) -> float | None:
    """Seconds of work for one second of audio with that model on this machine; None before the first take."""
    recent = (
        Take.objects.filter(model_id=model_id, host=platform.node(), render_seconds__gt=0, frames__gt=0)
        .order_by("-id")
        .values_list("render_seconds", "frames", "model__tokens_per_second")[:RECENT]
    )
    work = sum(render for render, _, _ in recent)
    # What was made, which of a take that goes on from another is only its end.
    audio = sum(frames / rate for _, frames, rate in recent)
    return work / audio if audio else None
