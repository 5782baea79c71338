"""Who may change adapters, and how the adapters pages answer: a page without scripts, a move without a reload with them."""

from __future__ import annotations

import json
from typing import Any, Final

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect

from adapters.models import Adapter

_STAFF_ONLY: Final = "Only staff import, edit and delete adapters. Ask the person who runs this studio."


def may_change(user: Any) -> bool:
    """Staff curate adapters; in local mode the owner is staff."""
    return bool(user.is_staff)


def check_staff(request: HttpRequest) -> None:
    """Raise PermissionDenied for anybody but staff."""
    if not may_change(request.user):
        raise PermissionDenied(_STAFF_ONLY)


def is_htmx(request: HttpRequest) -> bool:
    """Whether the page asks for a part of itself."""
    return bool(getattr(request, "htmx", False))


def get_adapter(pk: int) -> Adapter:
    """That adapter with what its page tells of. Raises Http404."""
    return get_object_or_404(Adapter.objects.select_related("base_model", "imported_by"), pk=pk)


def go_to(request: HttpRequest, address: str, *, to_top: bool = True) -> HttpResponse:
    """On to another page; htmx goes there without loading the frame again, so that music goes on."""
    if not is_htmx(request):
        return redirect(address)
    response = HttpResponse(status=204)
    swap = "outerHTML show:window:top" if to_top else "outerHTML"
    response["HX-Location"] = json.dumps(
        {"path": address, "target": "#main", "select": "#main", "swap": swap}
    )
    return response
