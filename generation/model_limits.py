"""What the studio's form says of the active model: limits, hint, licence, pace. For the page and for a push to it."""

from __future__ import annotations

from typing import Any

from generation.services.speed import seconds_per_audio_second
from registry.catalog import DEMO_MODEL_ID
from registry.models import ModelConfig, whole_if_equal
from registry.services import NoActiveModel, get_active_model


def limits_context() -> dict[str, Any]:
    """`model` (None when no model is active) and `seconds_per_audio_second` (None before its first take here)."""
    try:
        model = get_active_model()
    except NoActiveModel:
        return {"model": None, "seconds_per_audio_second": None}
    return {
        "model": _capabilities(model),
        "seconds_per_audio_second": seconds_per_audio_second(model.pk),
    }


def _capabilities(model: ModelConfig) -> dict[str, Any]:
    return {
        **model.as_dict(),
        "longest_seconds": whole_if_equal(model.longest_take_seconds),
        "windows_line": model.windows_line,
        "hint": model.hint,
        "warn_from_seconds": model.warn_from_seconds,
        "is_demo": model.pk == DEMO_MODEL_ID,
    }
