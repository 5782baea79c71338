"""Taking a config in, and what its owner does with it afterwards. What was asked for then goes on by itself."""

from __future__ import annotations

import json
from typing import Final

from django.contrib import messages
from django.contrib.auth.models import User
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST

from gated_configs.hub.errors import HUB_UNREACHABLE
from gated_configs.memory import CalculatorError, InvalidConfig, Problem
from gated_configs.memory.validation import MAX_BYTES
from gated_configs.models import UserModelConfig
from gated_configs.pages.answers import Answer, answer
from gated_configs.pages.asked import MAX_MODEL_CHARACTERS, Asked, asked_in
from gated_configs.pages.panel import Panel, panel_of
from gated_configs.pages.views import is_of_page, page_context, respond
from gated_configs.refusals import refusal_of
from gated_configs.services.curation import CurationRefused, restore_own, retire_own
from gated_configs.services.lookup import MODEL_GATED
from gated_configs.services.model_ids import InvalidModelId, normalised_id
from gated_configs.services.rate_limits import TooManyRequests
from gated_configs.services.submission import submit_config

_EMPTY: Final = "There is no text yet. Paste the text of config.json, or choose the file."


@require_http_methods(["GET", "HEAD", "POST"])
def config_submit(request: HttpRequest) -> HttpResponse:
    """Save a pasted config and go on with the action that waited for it. GET leads back to the page."""
    if request.method != "POST":
        return redirect("memory:page")
    asked = asked_in(request.POST)
    model_id = _model_id(request)
    text = _text(request)
    panel = panel_of(asked, model_id=model_id, code=_reason(request))
    try:
        if not text.strip():
            raise InvalidConfig((Problem("EMPTY", _EMPTY),))
        submit_config(
            user=_person(request),
            model_id=model_id,
            config=text,
            address=request.META.get("REMOTE_ADDR", ""),
        )
    except InvalidConfig as refused:
        return _refused(
            request, asked, panel, refused, refused.problems, missing=refused.missing_fields, text=text
        )
    except (CalculatorError, TooManyRequests) as refused:
        return _refused(request, asked, panel, refused, (Problem(refused.code, str(refused)),), text=text)
    if not is_of_page(request):
        return redirect(asked.address)
    return respond(request, answer(user=request.user, asked=asked))


def _person(request: HttpRequest) -> User:
    """Who asks: the middleware of either mode lets nobody else in."""
    assert isinstance(request.user, User)
    return request.user


def _text(request: HttpRequest) -> str | bytes:
    """The chosen file where there is one, else what stands in the field."""
    upload = request.FILES.get("file")
    if upload is not None and not isinstance(upload, list):
        # One byte more than is read, so that the refusal comes from the same place as for a paste.
        content: bytes = upload.read(MAX_BYTES + 1)
        return content
    return request.POST.get("config", "")


def _model_id(request: HttpRequest) -> str:
    try:
        return normalised_id(request.POST.get("config_for", "")[:MAX_MODEL_CHARACTERS])
    except InvalidModelId as error:
        raise Http404(str(error)) from error


def _reason(request: HttpRequest) -> str:
    """Why the panel was opened, so that a refused text finds it as it was."""
    reason = request.POST.get("reason", "")
    return reason if reason in (MODEL_GATED, HUB_UNREACHABLE) else ""


def _refused(
    request: HttpRequest,
    asked: Asked,
    panel: Panel,
    error: Exception,
    problems: tuple[Problem, ...],
    *,
    missing: tuple[str, ...] = (),
    text: str | bytes = "",
) -> HttpResponse:
    """The panel again with every reason; the text stays in its field."""
    refusal = refusal_of(error)
    status = refusal.status if refusal is not None else 400
    if is_of_page(request):
        # The field itself is left alone by the page, so that megabytes are not sent back and forth.
        context = {"panel": panel.refused(problems, missing=missing)}
        response = render(request, "gated_configs/_panel.html", context, status=status)
        response["HX-Retarget"], response["HX-Reswap"] = "#memory-panel", "morph:innerHTML"
        response["HX-Push-Url"] = "false"
    else:
        kept = text if isinstance(text, str) else ""
        done = Answer(asked, status=status, panel=panel.refused(problems, missing=missing, text=kept))
        response = render(request, "gated_configs/memory.html", page_context(request, done), status=status)
    if refusal is not None and refusal.retry_after_seconds is not None:
        response["Retry-After"] = str(refusal.retry_after_seconds)
    return response


@require_POST
def config_retire(request: HttpRequest) -> HttpResponse:
    """Use a person's own config no longer, and ask again without it. The notice brings it back."""
    asked = asked_in(request.POST)
    try:
        retired = retire_own(user=_person(request), model_id=_model_id(request))
    except UserModelConfig.DoesNotExist as error:
        raise Http404("You use no config of your own for this model.") from error
    except CurationRefused as refused:
        return _told(request, asked, str(refused))
    return _told(
        request,
        asked,
        f"Your config of {retired.model_id} is not used any more.",
        undo_url=reverse("memory:config-restore", args=[retired.pk]),
    )


@require_POST
def config_restore(request: HttpRequest, pk: int) -> HttpResponse:
    """Use a retired config of one's own again, and show its figures."""
    try:
        config = restore_own(user=_person(request), config_id=pk)
    except UserModelConfig.DoesNotExist as error:
        raise Http404("There is no such config of yours.") from error
    address = Asked(action="calculate", models=(config.model_id,)).address
    if not getattr(request, "htmx", False):
        return redirect(address)
    response = HttpResponse(status=204)
    place = {"path": address, "target": "#main", "select": "#main", "swap": "outerHTML"}
    response["HX-Location"] = json.dumps(place)
    return response


def _told(request: HttpRequest, asked: Asked, sentence: str, *, undo_url: str = "") -> HttpResponse:
    """The page as it is now, and a notice."""
    if not is_of_page(request):
        messages.info(request, sentence, extra_tags=undo_url)
        return redirect(asked.address)
    response = respond(request, answer(user=request.user, asked=asked))
    notice = render_to_string(
        "gated_configs/_notice.html", {"message": sentence, "undo_url": undo_url}, request
    )
    response.write(notice)
    return response
