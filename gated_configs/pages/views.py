"""The memory page: reads the address, has it answered, and sends the page or the part of it that changed."""

from __future__ import annotations

import contextlib
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from gated_configs.memory import CalculatorUnavailable, shared_calculator
from gated_configs.pages.answers import Answer, answer
from gated_configs.pages.asked import Asked, asked_in
from gated_configs.pages.form import form_of
from gated_configs.pages.units import short_name

_TITLES = {"calculate": "Memory of {}", "analyse": "Memory grid of {}", "compare": "Memory compared"}


@require_safe
def memory_page(request: HttpRequest) -> HttpResponse:
    """The page; with an action in the address, its result. `format=csv` downloads the result."""
    # Its libraries take two seconds to import: whoever opens the page will ask.
    with contextlib.suppress(CalculatorUnavailable):
        shared_calculator().warm_up()
    asked = asked_in(request.GET)
    as_csv = request.GET.get("format") == "csv"
    done = answer(user=request.user, asked=asked, as_csv=as_csv)
    if done.download is not None:
        return done.download
    return respond(request, done)


def respond(request: HttpRequest, done: Answer) -> HttpResponse:
    """The page; for htmx only what changed, sent to where it belongs whatever the status."""
    context = page_context(request, done)
    if not is_of_page(request):
        response = render(request, "gated_configs/memory.html", context, status=done.status)
    elif done.errors:
        # Only the form: what was shown before stays, marked as older.
        response = render(request, "gated_configs/_form.html", context, status=done.status)
        _send_to(response, "#memory-form", "morph")
    elif done.panel is not None and done.table is None:
        response = render(request, "gated_configs/_panel_answer.html", context, status=done.status)
        _send_to(response, "#memory-panel", "innerHTML")
    else:
        response = render(request, "gated_configs/_memory.html", context, status=done.status)
        _send_to(response, "#memory", "morph")
        response["HX-Push-Url"] = done.asked.changed().address
    if done.retry_after_seconds is not None:
        response["Retry-After"] = str(done.retry_after_seconds)
    return response


def _send_to(response: HttpResponse, target: str, swap: str) -> None:
    response["HX-Retarget"] = target
    response["HX-Reswap"] = swap
    response["HX-Push-Url"] = "false"


def is_of_page(request: HttpRequest) -> bool:
    """Whether the page itself asks, and can put a part where it belongs."""
    return request.headers.get("HX-Target") == "memory"


def page_context(request: HttpRequest, done: Answer) -> dict[str, Any]:
    """What the page and each of its parts need."""
    asked = done.asked
    return {
        "asked": asked,
        "form": form_of(asked, done.architecture, done.errors),
        "figures": done.figures,
        "grid": done.grid,
        "table": done.table,
        "panel": done.panel,
        "tools": _tools(request, done),
        "title": _title(asked) if done.has_result else "Will it fit?",
    }


def _title(asked: Asked) -> str:
    return _TITLES[asked.action].format(short_name(asked.model))


def _tools(request: HttpRequest, done: Answer) -> dict[str, str]:
    plain = done.asked.changed()
    tools = {"link": request.build_absolute_uri(plain.address), "csv": plain.csv_address}
    if done.is_music and getattr(request.user, "is_staff", False):
        tools |= {"add_model": plain.model, "add_address": reverse("registry:model-add")}
    return tools
