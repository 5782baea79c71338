"""The part of the adapters' API that tells of jobs and takes: deleting one with what needs it, and comparing by ear."""

from __future__ import annotations

from typing import Any, Final

from django.http import Http404, HttpRequest
from ninja import Router, Status

from adapters.api import StaffOnly, router
from adapters.services.editing import get_adapter
from generation import cards
from generation.adapter_api_schemas import RemovalOut, TrialIn, TrialOut
from generation.models import AdapterTrial
from generation.services import adapters, trials
from registry.api_schemas import ErrorOut

# Registered at the router of `adapters.api`: Django asks the first pattern of an address only, so one router has them all.

trials_router = Router(tags=["adapters"])

_MAX_ID: Final = 2**63 - 1


@router.delete(
    "/{int:adapter_id}",
    response={200: RemovalOut, 400: ErrorOut, 403: ErrorOut, 404: ErrorOut},
    operation_id="delete_adapter",
)
def adapter_delete(request: HttpRequest, adapter_id: int) -> Any:
    """Delete an adapter. Queued jobs that need it are cancelled, a running one finishes, takes stay. Staff only."""
    if not request.user.is_staff:
        raise StaffOnly
    return RemovalOut.of(adapters.delete_adapter(get_adapter(adapter_id)))


@router.post(
    "/{int:adapter_id}/trials",
    response={202: TrialOut, 400: ErrorOut, 404: ErrorOut, 413: ErrorOut, 429: ErrorOut, 507: ErrorOut},
    operation_id="create_trial",
)
def trial_create(request: HttpRequest, adapter_id: int, wanted: TrialIn) -> Any:
    """Queue three takes of one prompt and seed: with the base alone, and with the adapter at 0.5 and 1."""
    trial = trials.start_trial(
        owner=request.user,
        adapter=get_adapter(adapter_id),
        prompt=wanted.prompt,
        seed=wanted.seed,
        duration_seconds=wanted.duration_seconds,
        model_id=wanted.model,
    )
    return Status(202, _answer(trial))


@trials_router.get(
    "/{int:trial_id}",
    response={200: TrialOut, 400: ErrorOut, 404: ErrorOut},
    operation_id="get_trial",
)
def trial_detail(request: HttpRequest, trial_id: int) -> Any:
    """How far a comparison is; its takes, and the gain that makes them equally loud."""
    found = AdapterTrial.objects.for_user(request.user).select_related("adapter", "model")
    trial = found.filter(pk=trial_id).first() if trial_id <= _MAX_ID else None
    if trial is None:
        raise Http404
    return _answer(trial)


def _answer(trial: AdapterTrial) -> TrialOut:
    queue = cards.Queue()
    parts = trials.parts_of(trial)
    return TrialOut.of(trial, [(part, cards.make_card(part.job, queue)) for part in parts])
