"""Comparisons by ear: ask for the three takes, find them again, and match their levels.

The takes are made by ordinary jobs; nothing here renders.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from django.db import transaction

from adapters.models import Adapter
from generation.models import TRIAL_STRENGTHS, AdapterTrial, Job, Take
from generation.models.job import MAX_SEED
from generation.services.job_adapters import AdapterWish
from generation.services.jobs import request_cancel
from generation.services.submission import GenerationRequest, check_request, submit_job
from registry.models import whole_if_equal

#: What is rendered when nobody says what: after the adapter's trigger words, where it has some.
DEFAULT_PROMPT: Final = "warm melody with a steady beat"


@dataclass(frozen=True)
class TrialPart:
    """One of the three. `gain_db` is what to play its take with, so that all are equally loud; never above 0."""

    label: str
    strength: float
    job: Job
    take: Take | None
    gain_db: float


def start_trial(
    *,
    owner: Any,
    adapter: Adapter,
    prompt: str | None = None,
    seed: int | None = None,
    duration_seconds: float | None = None,
    model_id: str | None = None,
) -> AdapterTrial:
    """Queue the same request with the base alone and at each strength. Raises GenerationRefused; then nothing was queued.

    Without a model the active one is asked for; without a prompt the adapter's trigger words are played.
    """
    if prompt is None or not prompt.strip():
        prompt = " ".join(part for part in (adapter.trigger_words.strip(), DEFAULT_PROMPT) if part)
    # The first job would choose these by itself, and each the same.
    request = GenerationRequest(
        prompt=prompt,
        seed=secrets.randbelow(MAX_SEED + 1) if seed is None else seed,
        duration_seconds=duration_seconds,
        model_id=model_id,
        adapters=(AdapterWish(adapter.pk, 1.0),),
    )
    wanted = check_request(request)
    with transaction.atomic():
        trial = AdapterTrial.objects.create(
            owner=owner,
            adapter=adapter,
            model=wanted.model,
            prompt=wanted.values["prompt"],
            seed=wanted.values["seed"],
            duration_seconds=wanted.values["duration_seconds"],
        )
        for strength in TRIAL_STRENGTHS:
            submit_job(
                owner=owner,
                request=GenerationRequest(
                    prompt=trial.prompt,
                    seed=trial.seed,
                    duration_seconds=trial.duration_seconds,
                    model_id=wanted.model.pk,
                    adapters=(AdapterWish(adapter.pk, strength),) if strength else (),
                ),
                trial=trial,
            )
    return trial


def cancel_trial(trial: AdapterTrial) -> int:
    """Ask for the end of its jobs that are not over. Returns how many."""
    return sum(request_cancel(job) for job in trial.jobs.unfinished())


def parts_of(trial: AdapterTrial) -> list[TrialPart]:
    """Its parts, the base first. A job that was tried again counts instead of the first try."""
    by_strength: dict[float, Job] = {}
    for job in trial.jobs.complete().order_by("pk"):
        used = next(iter(job.adapters.all()), None)
        by_strength[used.strength if used is not None else 0.0] = job
    found = Take.objects.kept().filter(job__in=[job.pk for job in by_strength.values()])
    takes = {take.job_id: take for take in found}
    gains = gains_db(take for take in takes.values() if not take.is_partial)
    parts = []
    for strength, job in sorted(by_strength.items()):
        take = takes.get(job.pk)
        parts.append(
            TrialPart(
                label=f"Strength {whole_if_equal(strength)}" if strength else "Base",
                strength=strength,
                job=job,
                take=take,
                gain_db=gains.get(take.pk, 0.0) if take is not None else 0.0,
            )
        )
    return parts


def gains_db(takes: Iterable[Take]) -> dict[int, float]:
    """By take, the decibels that bring it down to the quietest of them: nothing is made louder, so nothing clips.

    Silence, and takes of releases that measured no level, stay as they are.
    """
    levels = {take.pk: take.rms_dbfs for take in takes if take.rms_dbfs is not None}
    quietest = min(levels.values(), default=0.0)
    return {pk: round(quietest - level, 2) for pk, level in levels.items()}
