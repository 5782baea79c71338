"""The activity page. Staff only: it tells of everybody's jobs."""

from __future__ import annotations

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from generation.inside.page import inside_context


@require_safe
@never_cache
def inside(request: HttpRequest) -> HttpResponse:
    """What the studio is doing; asked by the page itself every few seconds for its figures alone."""
    if not request.user.is_staff:
        raise PermissionDenied("Only staff may see what the whole studio is doing.")
    htmx = getattr(request, "htmx", None)
    template = "generation/_inside.html" if htmx and not htmx.boosted else "generation/inside.html"
    return render(request, template, inside_context())
