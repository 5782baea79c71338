"""What several pages of accounts share: they are there in shared mode only, and no cache keeps them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.utils.cache import add_never_cache_headers
from django.views.generic.edit import FormView


class RefusedIs400(FormView):  # type: ignore[type-arg]  # of Django's forms and of ours alike
    """A form's page that answers 400 with the form and what is wrong with it."""

    def form_invalid(self, form: Any) -> HttpResponse:
        """The form again, with what was typed."""
        response = super().form_invalid(form)
        response.status_code = 400
        return response


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
