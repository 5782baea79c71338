"""The adapters pages: list, one adapter with its proof, edit, delete, and comparing by ear.

A view reads the form, calls one service, and answers with a page or the partial that changed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlencode

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from adapters.format.compatibility import contradiction
from adapters.format.errors import AdapterRefused
from adapters.models import Adapter
from adapters.models.adapter import describe_architecture
from adapters.services.choices import choice_for
from adapters.services.editing import edit_adapter
from adapters.services.proofs import failed_on
from generation.adapter_pages.access import check_staff, get_adapter, go_to, is_htmx, may_change
from generation.adapter_pages.content import (
    active_model,
    adapter_rows,
    depends_on,
    page_context,
    stamp,
    trial_context,
)
from generation.adapter_pages.details import DETAILS, sent_values, values_of, wording_of
from generation.forms import GenerationForm
from generation.models import AdapterTrial
from generation.partials import out_of_band
from generation.services import trials
from generation.services.adapters import delete_adapter
from generation.services.refusals import GenerationRefused
from generation.views import DRAFT
from registry.models import ModelConfig
from registry.services import ModelNotFound, list_models

ADAPTERS_PER_PAGE: Final = 50
MAX_QUERY_CHARACTERS: Final = 200
#: A studio form is a prompt and a few numbers.
MAX_DRAFT_CHARACTERS: Final = 64 * 1024
_TRIAL_FIELDS: Final = ("prompt", "duration_seconds", "seed")


# The list.


@require_GET
def adapters_list(request: HttpRequest) -> HttpResponse:
    """Every adapter with its verdict, searched and filtered."""
    query = request.GET.get("q", "").replace("\0", "")[:MAX_QUERY_CHARACTERS].strip()
    show = request.GET.get("show", "")
    model = active_model()
    found = Adapter.objects.select_related("base_model")
    if query:
        found = found.search(query)
    if model is not None and show == "usable":
        found = found.compatible_with(model).exclude(pk__in=failed_on(model))
    elif model is not None and show == "locked":
        usable = Adapter.objects.compatible_with(model).exclude(pk__in=failed_on(model))
        found = found.exclude(pk__in=usable.values("pk"))
    else:
        show = ""
    page = Paginator(found, ADAPTERS_PER_PAGE).get_page(request.GET.get("page"))
    rows, others = adapter_rows(page.object_list, request.user)
    filters = urlencode({name: value for name, value in (("q", query), ("show", show)) if value})
    context = {
        "rows": rows,
        "others": others,
        "model": model,
        "query": query,
        "show": show,
        "page_obj": page,
        "total": page.paginator.count,
        "total_known": Adapter.objects.exists(),
        "filters_query": f"{filters}&" if filters else "",
        "here": request.get_full_path(),
        "stamp": stamp(),
        "can_change": may_change(request.user),
    }
    partial = is_htmx(request) and request.headers.get("HX-Target") == "adapters-results"
    return render(request, "adapters/_results.html" if partial else "adapters/list.html", context)


# One adapter, and comparing it by ear.


@require_GET
def adapter_detail(request: HttpRequest, pk: int) -> HttpResponse:
    """Facts, verdicts, proof, takes, and the newest comparison of this person."""
    adapter = get_adapter(pk)
    newest = AdapterTrial.objects.for_user(request.user).filter(adapter=adapter).first()
    return _page(request, adapter, newest)


@require_GET
def adapter_trial(request: HttpRequest, pk: int, trial_pk: int) -> HttpResponse:
    """The page of an adapter with one comparison on it, however far that is."""
    adapter = get_adapter(pk)
    trial = get_object_or_404(AdapterTrial.objects.for_user(request.user), pk=trial_pk, adapter=adapter)
    return _page(request, adapter, trial)


@require_http_methods(["GET", "HEAD", "POST"])
def adapter_try(request: HttpRequest, pk: int) -> HttpResponse:
    """Start a comparison; a refused one keeps the form as it was. GET leads back to the adapter."""
    adapter = get_adapter(pk)
    if request.method != "POST":
        return redirect("generation:adapter", pk=pk)
    values = {name: request.POST.get(name, "") for name in _TRIAL_FIELDS}
    form = GenerationForm(request.POST)
    trial = None
    if form.is_valid():
        wanted = {name: form.cleaned_data[name] for name in _TRIAL_FIELDS}
        try:
            trial = trials.start_trial(owner=request.user, adapter=adapter, **wanted)
        except GenerationRefused as refused:
            form.refuse(refused)
    if trial is None:
        return _refused(request, adapter, form, values)
    return go_to(request, reverse("generation:adapter-trial", args=[adapter.pk, trial.pk]), to_top=False)


def _refused(
    request: HttpRequest, adapter: Adapter, form: GenerationForm, values: dict[str, str]
) -> HttpResponse:
    errors = {name: form.errors[name][0] for name in _TRIAL_FIELDS if name in form.errors}
    others = [
        str(sentence)
        for name, found in form.errors.items()
        if name not in _TRIAL_FIELDS
        for sentence in found
    ]
    try_form = {"values": values, "errors": errors, "refusal": " ".join(others)}
    if is_htmx(request):
        context = page_context(request.user, adapter, None) | {"try_form": try_form}
        return render(request, "adapters/_try_form.html", context, status=400)
    newest = AdapterTrial.objects.for_user(request.user).filter(adapter=adapter).first()
    return _page(request, adapter, newest, try_form=try_form, status=400)


@require_POST
def trial_cancel(request: HttpRequest, pk: int) -> HttpResponse:
    """End what is left of a comparison; takes that are made stay."""
    trial = get_object_or_404(AdapterTrial.objects.for_user(request.user).select_related("adapter"), pk=pk)
    trials.cancel_trial(trial)
    if not is_htmx(request):
        return redirect("generation:adapter-trial", pk=trial.adapter_id, trial_pk=trial.pk)
    context = trial_context(request.user, trial.adapter, trial)
    return HttpResponse(out_of_band("adapters/_trial.html", context, request))


def _page(
    request: HttpRequest, adapter: Adapter, trial: AdapterTrial | None, *, status: int = 200, **more: Any
) -> HttpResponse:
    context = page_context(request.user, adapter, trial) | more
    return render(request, "adapters/adapter.html", context, status=status)


# Edit and delete.


@require_http_methods(["GET", "HEAD", "POST"])
def adapter_edit(request: HttpRequest, pk: int) -> HttpResponse:
    """Change what people say of an adapter. Its files never change."""
    check_staff(request)
    adapter = get_adapter(pk)
    context: dict[str, Any] = {"adapter": adapter, "label": str(adapter), "models": _possible_bases(adapter)}
    if request.method != "POST":
        return render(request, "adapters/edit.html", context | {"values": values_of(adapter), "errors": {}})
    wording = wording_of(request.POST)
    if wording.default_strength is None and "default_strength" in request.POST:
        # Cleared, which an import takes for "as usual": here it would seem saved and be as before.
        wording = replace(wording, default_strength=math.nan)
    try:
        edit_adapter(adapter, wording)
    except AdapterRefused as refused:
        field = str(refused.facts.get("field", ""))
        is_of_field = field in DETAILS
        context |= {
            "values": sent_values(request.POST),
            "errors": {field: refused.message} if is_of_field else {},
            "refusal": "" if is_of_field else refused.message,
        }
    except ModelNotFound as refused:
        context |= {"values": sent_values(request.POST), "errors": {"base_model": str(refused)}}
    else:
        messages.info(request, f"Saved {adapter}.")
        return go_to(request, reverse("generation:adapter", args=[adapter.pk]))
    template = "adapters/_edit_form.html" if is_htmx(request) else "adapters/edit.html"
    return render(request, template, context, status=400)


def _possible_bases(adapter: Adapter) -> list[ModelConfig]:
    """Models that its own shapes do not rule out, whatever base it has now, and that one."""
    return [
        model
        for model in list_models()
        if model.pk == adapter.base_model_id
        or not contradiction(adapter.fingerprint, describe_architecture(model))
    ]


@require_http_methods(["GET", "HEAD", "POST"])
def adapter_delete(request: HttpRequest, pk: int) -> HttpResponse:
    """Say what depends on it, then delete it."""
    check_staff(request)
    adapter = get_adapter(pk)
    label = str(adapter)
    if request.method != "POST":
        template = "adapters/_delete.html" if is_htmx(request) else "adapters/delete_page.html"
        context = {"adapter": adapter, "label": label, "depends": depends_on(adapter)}
        return render(request, template, context)
    delete_adapter(adapter)
    messages.info(request, f"Deleted {label}.")
    return go_to(request, reverse("generation:adapters"))


# Switch and use, without scripts.


@require_POST
def adapter_switch(request: HttpRequest, pk: int) -> HttpResponse:
    """Keep the studio's form in the session and show the plan of the switch; then the form goes on as it was."""
    adapter = get_adapter(pk)
    active = active_model()
    model = choice_for(adapter, active).unlock_model if active is not None else None
    sent = request.POST.urlencode()
    if len(sent) <= MAX_DRAFT_CHARACTERS:
        request.session[DRAFT] = sent
    if model is None:
        return redirect(f"{reverse('generation:studio')}?draft&adapter={adapter.pk}")
    return redirect(f"{reverse('generation:switch-plan', args=[model.pk])}?use={adapter.pk}")
