"""How often one person may submit and upload, whichever page or route they use. Counted in rows, for all processes."""

from __future__ import annotations

import math
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.utils.deprecation import MiddlewareMixin

from gated_configs.services.rate_limits import Limit, take
from gated_configs.wording import rough_seconds
from musicgen_site.security import error_response, is_api_request

#: Views whose POST queues jobs.
SUBMISSIONS: Final = frozenset(
    {
        "generation:studio",
        "generation:job-retry",
        "generation:adapter-try",
        "api:generation_create",
        "api:trial_create",
    }
)
#: Views whose POST takes in an adapter. All operations of a path of the API share the name of its first.
UPLOADS: Final = frozenset(
    {"generation:adapter-import", "api:adapters_list", "api:adapter_import", "admin:adapters_adapter_add"}
)
#: Views whose POST takes in a clip.
CLIPS: Final = frozenset({"generation:clip-upload", "api:clips_list", "api:clip_create"})
#: Views whose POST asks for the old password.
PASSWORDS: Final = frozenset({"account-password", "admin:password_change"})

#: Views whose POST makes the studio call somebody.
WEBHOOKS: Final = frozenset(
    {
        "generation:webhooks",
        "generation:webhook-test",
        "generation:delivery-resend",
        "api:webhooks_list",
        "api:webhook_test",
        "api:delivery_resend",
    }
)


def limit_of(view_name: str) -> tuple[Limit, str] | None:
    """The limit on POSTs to a view, and what is limited in words; None for most."""
    if view_name in SUBMISSIONS:
        return Limit("submission", settings.STUDIO.max_submissions_per_minute, 60), "submitted jobs"
    if view_name in UPLOADS:
        return Limit("upload", settings.STUDIO.max_uploads_per_hour, 3600), "imported adapters"
    if view_name in CLIPS:
        return Limit("clip", settings.STUDIO.max_uploads_per_hour, 3600), "brought in clips"
    if view_name in WEBHOOKS:
        return Limit("webhook", 30, 600), "changed or tried webhooks"
    if view_name in PASSWORDS:
        return Limit("password", 10, 600), "tried passwords"
    return None


class RequestLimitsMiddleware(MiddlewareMixin):
    """Shared mode: answers 429 with when to try again. Stands behind the login check, which knows the person."""

    def process_view(
        self, request: HttpRequest, view: Any, args: Any, kwargs: Any
    ) -> HttpResponseBase | None:
        """Count a POST; refuse it when it is one too many."""
        if settings.STUDIO.access == "local" or request.method != "POST" or request.resolver_match is None:
            return None
        limited = limit_of(request.resolver_match.view_name)
        if limited is None or request.user.pk is None:
            return None
        limit, what = limited
        wait = take(limit, request.user.pk)
        if not wait:
            return None
        return too_many(request, f"You {what} too often. Try again in {rough_seconds(wait)}.", wait)


def too_many(request: HttpRequest, sentence: str, wait: float) -> HttpResponse:
    """The answer to one request too many: the API's shape for programs and partials, a page for people."""
    answer: HttpResponse
    if is_api_request(request) or request.headers.get("HX-Request"):
        answer = error_response(429, sentence, "TOO_MANY_REQUESTS")
    else:
        answer = render(request, "429.html", {"sentence": sentence}, status=429)
    answer.headers["Retry-After"] = str(math.ceil(wait))
    return answer
