"""Whether a take's recipe still makes it: what to ask the engine for, and where two takes depart from each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import soundfile

from adapters.models import Adapter
from generation.models import Clip, Take
from generation.services.job_adapters import AdapterWish
from generation.services.submission import GenerationRequest, Windows

#: What of a recipe says how it was made, and not what was asked for: a difference in sound has its reason here.
_CIRCUMSTANCES: Final = ("device", "dtype", "revision", "studio_version", "versions")


class NotVerifiable(ValueError):
    """The take cannot be made again. `str()` is the sentence for people."""


@dataclass(frozen=True)
class Comparison:
    """Two takes beside each other. `departs_at` is the second of the first sample that differs, None where none does.

    `largest` is the largest difference, 1 being full scale; `changed` says what else is different about the two.
    """

    departs_at: float | None
    largest: float
    changed: tuple[str, ...]


def request_to_make_again(take: Take) -> GenerationRequest:
    """What was asked for. Raises NotVerifiable."""
    recipe: dict[str, Any] = take.recipe
    if take.is_partial:
        raise NotVerifiable(
            f"Take {take.pk} was cancelled before its end. Only whole takes can be verified: choose another."
        )
    continued = recipe.get("continued") or {}
    clip = _clip_of(take, continued, "goes on from") if "clip" in continued else None
    melody = _clip_of(take, recipe["melody"], "follows") if "melody" in recipe else None
    if "take" in continued and not Take.objects.for_user(take.owner).kept().filter(
        pk=continued["take"], sha256=continued["sha256"]
    ):
        raise NotVerifiable(
            f"Take {continued['take']}, which take {take.pk} goes on from, is gone from the library. Bring it back, or"
            " choose another take."
        )
    return GenerationRequest(
        prompt=recipe["prompt"],
        duration_seconds=recipe["duration_seconds"],
        model_id=recipe["model"],
        seed=recipe["seed"],
        guidance_scale=recipe["guidance_scale"],
        temperature=recipe["temperature"],
        top_k=recipe["top_k"],
        top_p=recipe["top_p"],
        adapters=tuple(_wish(used) for used in recipe["adapters"]),
        continue_take=continued.get("take"),
        continue_clip=clip.pk if clip else None,
        continue_from_seconds=continued.get("from_seconds"),
        melody_clip=melody.pk if melody else None,
        windows=Windows(recipe.get("window_seconds"), recipe.get("stride_seconds")),
    )


def _clip_of(take: Take, named: dict[str, Any], what_it_does: str) -> Clip:
    clip = Clip.objects.for_user(take.owner).filter(sha256=named["sha256"]).first()
    if clip is None:
        raise NotVerifiable(
            f"The clip that take {take.pk} {what_it_does} was deleted. Bring it in again; it is known by its content."
        )
    return clip


def _wish(used: dict[str, Any]) -> AdapterWish:
    adapter = Adapter.objects.filter(sha256=used["sha256"]).first()
    if adapter is None:
        raise NotVerifiable(
            f"The adapter '{used['name']}' of this take was deleted. Import it again; it is known by its files."
        )
    return AdapterWish(id=adapter.pk, strength=used["strength"])


def compare(take: Take, file: Path, again: Take, again_file: Path) -> Comparison:
    """The take as it was kept beside the one made again, each with its audio file."""
    (first, rate), (second, _) = (
        soundfile.read(path, dtype="float32", always_2d=True) for path in (file, again_file)
    )  # [S, C]
    shared = min(len(first), len(second))
    difference = np.abs(first[:shared] - second[:shared]).max(axis=1, initial=0.0)
    departed = np.flatnonzero(difference)
    departs_at = None
    if len(departed):
        departs_at = float(departed[0] / rate)
    elif len(first) != len(second):
        departs_at = shared / rate
    changed = []
    for name in _CIRCUMSTANCES:
        before, now = take.recipe.get(name), again.recipe.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            changed += [
                f"{each} {before.get(each, 'unknown')} then, {now.get(each, 'unknown')} now"
                for each in sorted(before.keys() | now.keys())
                if before.get(each) != now.get(each)
            ]
        elif before != now:
            changed.append(f"{name.replace('_', ' ')} {before or 'unknown'} then, {now or 'unknown'} now")
    return Comparison(departs_at, float(difference.max(initial=0.0)), tuple(changed))
