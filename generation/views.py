"""Pages of generation: the studio, the library, and what the buttons of cards and takes do.

A view reads the form, calls one service, and answers with a page or the partial that changed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from adapters.models import Adapter
from gated_configs.wording import plain_number
from generation import cards, partials, settings_page
from generation.adapter_choices import adapter_choices, choices_context, chosen_in, chosen_of_take
from generation.clip_field import CONTINUED, MELODY, clip_context, clip_of_user, clip_values, clips_again
from generation.forms import GenerationForm
from generation.model_limits import limits_context
from generation.models import Job, Take
from generation.services import jobs, parameters, submission, takes
from generation.services.refusals import GenerationRefused
from generation.services.storage import storage_of
from registry.models import ModelConfig
from registry.services import NoActiveModel, get_active_model

TAKES_PER_PAGE = 25
MAX_QUERY_CHARACTERS = 200
#: Session key of the form that waits for a switch, of somebody without scripts.
DRAFT = "studio_draft"


def _get_job_for_user(request: HttpRequest, pk: int) -> Job:
    return get_object_or_404(Job.objects.for_user(request.user).select_related("model"), pk=pk)


def _get_take_for_user(request: HttpRequest, pk: int) -> Take:
    return get_object_or_404(Take.objects.for_user(request.user), pk=pk)


def _changed(change: Callable[[Take], Take], take: Take) -> Take:
    try:
        return change(take)
    except takes.TakeGone as gone:  # as for who comes a moment later
        raise Http404(str(gone)) from None


def _is_htmx(request: HttpRequest) -> bool:
    return bool(getattr(request, "htmx", False))


# The studio.


@require_http_methods(["GET", "HEAD", "POST"])
def studio(request: HttpRequest) -> HttpResponse:
    """The form, the queue and the newest takes. POST queues a job; a refused one keeps the form as it was."""
    if request.method == "POST":
        return _submit(request)
    form = GenerationForm(initial=_initial_values(request))
    return render(request, "generation/studio.html", _studio_context(request, form))


def _submit(request: HttpRequest) -> HttpResponse:
    form = GenerationForm(request.POST)
    job = None
    if form.is_valid():
        try:
            job = submission.submit_job(owner=request.user, request=form.as_request())
        except GenerationRefused as refused:
            form.refuse(refused)
    status = 200 if job is not None else 400
    if not _is_htmx(request):
        if job is not None:
            request.session.pop(DRAFT, None)
            return redirect("generation:studio")
        return render(request, "generation/studio.html", _studio_context(request, form), status=status)
    context = _form_context(request, form)
    if job is not None:
        context |= {"submitted": job}
    html: str = render_to_string("generation/_form.html", context, request)
    if job is not None:
        html += _queue_out_of_band(request)
    return HttpResponse(html, status=status)


def _studio_context(request: HttpRequest, form: GenerationForm) -> dict[str, Any]:
    return {
        **cards.queue_context(request.user),
        **_form_context(request, form),
        "switch_card": settings_page.shown_switch(),
        "takes": cards.recent_takes(request.user),
    }


def _form_context(request: HttpRequest, form: GenerationForm) -> dict[str, Any]:
    chosen = chosen_in(form.data) if form.is_bound else form.initial.get("adapters", {})
    missing = form.initial.get("missing_adapters", ())
    choices = adapter_choices(chosen, errors=list(map(str, form["adapters"].errors)), missing=missing)
    last = Job.objects.for_user(request.user).order_by("-id").first()
    named = form["continue_take"].value()
    continued = _take_of_user(request, str(named)) if named else None
    clip = clip_of_user(request, str(form["continue_clip"].value() or ""))
    errors = [*form["continue_clip"].errors, *(form["continue_from_seconds"].errors if clip else ())]
    limits = limits_context()
    return {
        "form": form,
        "continued": continued,
        "scale": _scale(limits["model"], may_extend=bool(form["extend"].value() or continued or clip)),
        **limits,
        **choices_context(request.user, choices),
        "clip_field": clip_context(
            CONTINUED,
            clip,
            seconds=str(form["continue_from_seconds"].value() or ""),
            error=" ".join(map(str, errors)),
        ),
        "melody_field": clip_context(
            MELODY,
            clip_of_user(request, str(form["melody_clip"].value() or "")),
            error=" ".join(map(str, form["melody_clip"].errors)),
        ),
        "examples": cards.EXAMPLES,
        "last_seed": last.seed if last else None,
        "max_variations": settings.STUDIO.max_variations,
        "max_prompt_characters": settings.STUDIO.max_prompt_characters,
    }


def _scale(model: dict[str, Any] | None, *, may_extend: bool) -> dict[str, float]:
    """Where the slider of the duration ends, and from where on it warns."""
    if model is None:
        return {"most": 30, "warn": 30}
    piece = model["max_duration_seconds"]
    most = model["longest_seconds"] if may_extend else piece
    return {"most": most, "warn": model["warn_from_seconds"] + most - piece}


def _initial_values(request: HttpRequest) -> dict[str, Any]:
    """The form's start: the model's recommendation, or the settings of a take when `?take=` names one."""
    try:
        recommended = plain_number(get_active_model().default_duration_seconds)
    except NoActiveModel:
        recommended = ""
    values: dict[str, Any] = {
        "prompt": "",
        "duration_seconds": recommended,
        "seed": "",
        "guidance_scale": plain_number(parameters.GUIDANCE_SCALE.default),
        "temperature": plain_number(parameters.TEMPERATURE.default),
        "top_k": plain_number(parameters.TOP_K.default),
        "top_p": plain_number(parameters.TOP_P.default),
        "variations": "1",
    }
    take = _named_take(request)
    if take is not None:
        for name in ("duration_seconds", "guidance_scale", "temperature", "top_k", "top_p"):
            if name in take.recipe:
                values[name] = plain_number(float(take.recipe[name]))
        values |= {"prompt": take.prompt, "seed": str(take.seed), "extend": "window_seconds" in take.recipe}
        values["adapters"], values["missing_adapters"] = chosen_of_take(take)
        values |= clips_again(request, take.recipe)
        if "take" in (continued := take.recipe.get("continued", {})):
            values |= _continuing(_take_of_user(request, str(continued["take"])), continued)
    if (source := _take_of_user(request, request.GET.get("continue", ""))) is not None:
        values |= {"prompt": source.prompt, **_continuing(source, {})}
        values["adapters"], values["missing_adapters"] = chosen_of_take(source)
    if (clip := clip_of_user(request, request.GET.get("clip", ""))) is not None:
        values |= clip_values(clip)
    if (clip := clip_of_user(request, request.GET.get("melody", ""))) is not None:
        values |= {"melody_clip": str(clip.pk)}
    draft = request.session.get(DRAFT) if "draft" in request.GET else None
    if draft is not None:
        values |= QueryDict(draft).dict() | {"adapters": chosen_in(QueryDict(draft))}
    values["adapters"] = {**values.get("adapters", {}), **chosen_in(request.GET)}
    return values


def _named_take(request: HttpRequest) -> Take | None:
    """The take whose settings `?take=` asks for."""
    return _take_of_user(request, request.GET.get("take", ""))


def _take_of_user(request: HttpRequest, text: str) -> Take | None:
    """The person's own take of that number; None for what is none."""
    take_id = _as_id(text)
    return Take.objects.for_user(request.user).filter(pk=take_id).first() if take_id is not None else None


def _continuing(source: Take | None, recipe: dict[str, Any]) -> dict[str, str]:
    """The form's values to go on from a take, from where a recipe says or its end."""
    if source is None:
        return {}
    seconds = recipe.get("from_seconds", source.duration_seconds)
    return {"continue_take": str(source.pk), "continue_from_seconds": plain_number(seconds)}


def _as_id(text: str) -> int | None:
    """The number of a row, as an address names it; None for what is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _queue_out_of_band(request: HttpRequest) -> str:
    return partials.out_of_band("generation/_queue.html", cards.queue_context(request.user), request)


@require_POST
def job_cancel(request: HttpRequest, pk: int) -> HttpResponse:
    """End a job; what was made so far is kept."""
    jobs.request_cancel(_get_job_for_user(request, pk))
    return _board_answer(request)


@require_POST
def job_retry(request: HttpRequest, pk: int) -> HttpResponse:
    """Queue the same request again."""
    job = _get_job_for_user(request, pk)
    try:
        jobs.retry_job(job)
    except GenerationRefused as refused:
        return _refused_answer(request, str(refused))
    return _board_answer(request)


@require_POST
def job_dismiss(request: HttpRequest, pk: int) -> HttpResponse:
    """Put the card of an ended job away."""
    jobs.dismiss_job(_get_job_for_user(request, pk))
    return _board_answer(request)


def _board_answer(request: HttpRequest) -> HttpResponse:
    if not _is_htmx(request):
        return redirect("generation:studio")
    return HttpResponse(_queue_out_of_band(request))


def _refused_answer(request: HttpRequest, sentence: str) -> HttpResponse:
    """A refusal that has no field of its own: a toast on the page it came from."""
    if not _is_htmx(request):
        messages.error(request, sentence)
        return redirect(_page_before(request))
    response = HttpResponse(partials.toast(sentence, level="bad", request=request), status=400)
    response["HX-Reswap"] = "none"
    return response


def _page_before(request: HttpRequest) -> str:
    """Where forms without scripts go back to. Only our own pages are named, never an address from the request."""
    named = request.POST.get("from", "")
    return reverse(f"generation:{named if named in ('library', 'deleted') else 'studio'}")


# The library.


@require_GET
def library(request: HttpRequest) -> HttpResponse:
    """All takes, newest first, with search, filter and pages."""
    query = request.GET.get("q", "").replace("\0", "")[:MAX_QUERY_CHARACTERS]
    model_filter = request.GET.get("model", "").replace("\0", "")[:80]
    favourites_only = request.GET.get("favourites", "") in {"1", "on", "true"}
    adapter_filter = _as_id(request.GET.get("adapter", ""))
    mine = Take.objects.for_user(request.user).kept()
    found = mine.matching(query)
    if model_filter:
        found = found.filter(model_id=model_filter)
    if favourites_only:
        found = found.filter(is_favourite=True)
    if adapter_filter is not None:
        found = found.made_with(adapter_filter)
    page = Paginator(found.order_by("-id"), TAKES_PER_PAGE).get_page(request.GET.get("page"))
    filters = {
        "q": query,
        "model": model_filter,
        "adapter": adapter_filter,
        "favourites": "1" if favourites_only else "",
    }
    set_filters = {name: value for name, value in filters.items() if value}
    context = {
        "takes": page.object_list,
        "page_obj": page,
        "query": query,
        "model_filter": model_filter,
        "models": list(
            ModelConfig.objects.filter(pk__in=mine.values("model")).values_list("id", "display_name")
        ),
        "favourites_only": favourites_only,
        "adapter_filter": adapter_filter,
        "adapters": list(Adapter.objects.filter(pk__in=mine.values("job__adapters__adapter"))),
        "filters_query": f"{urlencode(set_filters)}&" if set_filters else "",
        "total": page.paginator.count,
        "storage": storage_of(request.user),
        "keep_days": settings.STUDIO.keep_takes_days,
    }
    is_part = _is_htmx(request) and request.headers.get("HX-Target") == "library-results"
    return render(
        request, "generation/_library_results.html" if is_part else "generation/library.html", context
    )


@require_GET
def deleted(request: HttpRequest) -> HttpResponse:
    """Takes that were deleted and can still be brought back: the notice with its undo is gone in seconds."""
    found = Take.objects.for_user(request.user).restorable()
    page = Paginator(found, TAKES_PER_PAGE).get_page(request.GET.get("page"))
    context = {
        "takes": page.object_list,
        "page_obj": page,
        "keep_seconds": 3600 * settings.STUDIO.keep_deleted_hours,
    }
    return render(request, "generation/deleted.html", context)


@require_POST
def take_favourite(request: HttpRequest, pk: int) -> HttpResponse:
    """Mark or unmark."""
    return _take_answer(request, _changed(takes.toggle_favourite, _get_take_for_user(request, pk)))


@require_POST
def take_rename(request: HttpRequest, pk: int) -> HttpResponse:
    """Give a take a title; an empty one brings its prompt back."""
    take = _get_take_for_user(request, pk)
    try:
        _changed(partial(takes.rename_take, title=request.POST.get("title", "")), take)
    except takes.TitleRefused as refused:
        return _refused_answer(request, str(refused))
    return _take_answer(request, take)


@require_POST
def take_delete(request: HttpRequest, pk: int) -> HttpResponse:
    """Out of the library, with a way back."""
    take = _changed(takes.delete_take, _get_take_for_user(request, pk))
    undo_url = reverse("generation:take-restore", args=[take.pk])
    message = f"Deleted “{take.display_title[:60]}”."
    if not _is_htmx(request):
        messages.info(request, message, extra_tags=undo_url)
        return redirect(_page_before(request))
    return HttpResponse(partials.toast(message, undo_url=undo_url, request=request))


@require_POST
def take_restore(request: HttpRequest, pk: int) -> HttpResponse:
    """Bring a deleted take back."""
    take = _changed(takes.restore_take, _get_take_for_user(request, pk))
    if request.POST.get("from") == "deleted":
        messages.info(request, f"Restored “{take.display_title[:60]}”. It is in the library again.")
        return redirect("generation:deleted")
    return _take_answer(request, take)


def _take_answer(request: HttpRequest, take: Take) -> HttpResponse:
    if not _is_htmx(request):
        return redirect(_page_before(request))
    return render(request, "generation/_take_row.html", {"take": take})
