"""What several pages of accounts share: they are there in shared mode only, and no cache keeps them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponseBase
from django.utils.cache import add_never_cache_headers


def shared_mode_only(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """404 in local mode, which has no accounts."""

    @wraps(view)
    def checked(request: HttpRequest, *arguments: Any, **named: Any) -> HttpResponseBase:
        if settings.STUDIO.access == "local":
            raise Http404
        response = view(request, *arguments, **named)
        add_never_cache_headers(response)
        return response

    return checked
