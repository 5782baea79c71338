"""What the memory page asks of the registry: a MusicGen config becomes one of the models. Staff only."""

from __future__ import annotations

import json

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html
from django.views.decorators.http import require_POST

from gated_configs.memory import CalculatorError
from gated_configs.services.lookup import LookupFailed
from gated_configs.services.model_ids import MAX_CHARACTERS, InvalidModelId
from registry.services import NotAddable, add_model

_STAFF_ONLY = "Only staff add models. Ask the person who runs this studio."


@require_POST
def model_add(request: HttpRequest) -> HttpResponse:
    """Make a model of the config that this person gets for `model_id`, and go to it on the settings page."""
    if not request.user.is_staff:
        raise PermissionDenied(_STAFF_ONLY)
    try:
        addition = add_model(
            user=request.user, model_id=request.POST.get("model_id", "")[: MAX_CHARACTERS + 1]
        )
    except (InvalidModelId, LookupFailed, NotAddable, CalculatorError) as refused:
        return _refused(request, refused)
    messages.info(request, addition.sentence)
    address = f"{reverse('generation:settings')}#model-{addition.model.pk}"
    if not _is_htmx(request):
        return redirect(address)
    response = HttpResponse(status=204)
    response["HX-Location"] = json.dumps(
        {"path": address, "target": "#main", "select": "#main", "swap": "outerHTML"}
    )
    return response


def _refused(request: HttpRequest, refused: Exception) -> HttpResponse:
    """The sentence where it was asked for: a notice beside the page, or on the settings page without scripts."""
    if not _is_htmx(request):
        messages.error(request, str(refused))
        return redirect("generation:settings")
    notice = render_to_string(
        "generation/_toast.html", {"message": str(refused), "undo_url": "", "level": "bad"}, request
    )
    status = refused.status if isinstance(refused, LookupFailed) else 400
    response = HttpResponse(
        format_html('<div hx-swap-oob="beforeend:#toasts">{}</div>', notice), status=status
    )
    response["HX-Reswap"] = "none"
    return response


def _is_htmx(request: HttpRequest) -> bool:
    return bool(getattr(request, "htmx", False))
