"""The settings page: models and hardware, switching, and giving memory and disk back."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from adapters.models import Adapter
from gated_configs.wording import gigabytes
from generation import partials, settings_page
from generation.services import hosts, models
from generation.switch_card import switch_card
from registry.models import ModelConfig, ModelSwitch
from registry.services import (
    ModelNotFound,
    ModelNotPlayable,
    SwitchUnderWay,
    cancel_switch,
    get_model_config,
    last_switch,
    open_switch,
    request_switch,
)


def _switchers_only(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Staff only; anybody else is told so."""

    @wraps(view)
    def checked(request: HttpRequest, *arguments: Any, **named: Any) -> HttpResponse:
        if not settings_page.may_switch(request.user):
            raise PermissionDenied("Only staff may change the engine. Ask the person who runs this studio.")
        return view(request, *arguments, **named)

    return checked


def _get_model(model_id: str) -> ModelConfig:
    try:
        return get_model_config(model_id)
    except ModelNotFound as problem:
        raise Http404(str(problem)) from problem


def _is_htmx(request: HttpRequest) -> bool:
    return bool(getattr(request, "htmx", False))


@require_GET
def settings_view(request: HttpRequest) -> HttpResponse:
    """Models with their fit, what is loaded, and the switch under way."""
    return render(request, "registry/settings.html", settings_page.settings_context(request.user))


@require_GET
@_switchers_only
def switch_plan(request: HttpRequest, model_id: str) -> HttpResponse:
    """What a switch would take, before it starts."""
    model = _get_model(model_id)
    if not model.is_playable:
        return _say(request, str(ModelNotPlayable(model)), status=400)
    plan = settings_page.switch_plan(model, is_reload=request.GET.get("reload") == "1")
    use = _adapter_to_use(request.GET.get("use", ""))
    template = "registry/_switch_plan.html" if _is_htmx(request) else "registry/switch_plan_page.html"
    return render(request, template, {"plan": plan, "use": use})


def _adapter_to_use(text: str) -> Adapter | None:
    """The adapter that the switch is for, when it is made for one."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        return None
    return Adapter.objects.filter(pk=int(text)).first()


@require_POST
@_switchers_only
def switch_start(request: HttpRequest) -> HttpResponse:
    """Ask for a switch; a second request for the same model joins it."""
    read_at = partials.reading()
    try:
        answer = request_switch(
            request.POST.get("model_id", "")[:300], request.user, reload=request.POST.get("reload") == "1"
        )
    except SwitchUnderWay as refused:
        return _say(request, str(refused), status=409)
    except (ModelNotFound, ModelNotPlayable) as refused:
        return _say(request, str(refused), status=400)
    if answer.switch is None:
        return _say(request, answer.sentence, status=200)
    if not _is_htmx(request):
        use = _adapter_to_use(request.POST.get("use", ""))
        if use is not None:
            return redirect(f"{reverse('generation:studio')}?draft&adapter={use.pk}")
        return redirect("generation:settings")
    return _status_answer(request, read_at, answer.switch)


@require_POST
@_switchers_only
def switch_cancel(request: HttpRequest) -> HttpResponse:
    """End the switch under way, while that is possible."""
    switch = open_switch()
    if switch is not None:
        cancel_switch(switch)
    if not _is_htmx(request):
        return redirect("generation:settings")
    return _status_answer(request, partials.reading(), last_switch())


def _status_answer(request: HttpRequest, read_at: int, switch: ModelSwitch | None) -> HttpResponse:
    """The switch as it was read at that moment."""
    context = {"read_at": read_at, "switch_card": switch_card(switch) if switch is not None else None}
    return HttpResponse(partials.out_of_band("registry/_switch_status.html", context, request))


@require_POST
@_switchers_only
def free_memory(request: HttpRequest) -> HttpResponse:
    """End idle runners."""
    asked = hosts.request_free_memory()
    sentence = "Idle models are being ended." if asked else "No engine is running, so no memory is held."
    return _say(request, sentence, status=200)


@require_POST
@_switchers_only
def model_remove(request: HttpRequest, model_id: str) -> HttpResponse:
    """Remove an installed model's files."""
    model = _get_model(model_id)
    try:
        freed = models.remove_installed_model(model)
    except models.RemovalRefused as refused:
        return _say(request, str(refused), status=400)
    return _say(request, f"Removed {model.display_name}: {gigabytes(freed)} freed.", status=200, rows=True)


def _say(request: HttpRequest, sentence: str, *, status: int, rows: bool = False) -> HttpResponse:
    """A notice on the page it came from; with `rows` also the table as it is now."""
    if not _is_htmx(request):
        (messages.error if status >= 400 else messages.info)(request, sentence)
        return redirect("generation:settings")
    html = partials.toast(sentence, level="bad" if status >= 400 else "", request=request)
    if rows:
        context = settings_page.settings_context(request.user)
        html += partials.out_of_band("registry/_models.html", context, request)
    response = HttpResponse(html, status=status)
    response["HX-Reswap"] = "none"
    return response
