"""`/metrics` for Prometheus: who may read it, and in which form. What it says is read in `generation.inside`."""

from __future__ import annotations

import hmac
import logging
from functools import lru_cache

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from generation.inside.collector import studio_registry
from musicgen_site.security import error_response

logger = logging.getLogger(__name__)


@csrf_exempt  # it changes nothing, and a wrong method is told so
@require_safe
@never_cache
@login_not_required
def metrics(request: HttpRequest) -> HttpResponseBase:
    """Every figure of the studio. Local mode: the owner's, as everything. Shared: staff's, or by the token."""
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    try:
        if (refusal := _refusal(request)) is not None:
            return refusal
        body = encode(_registry())
    except DatabaseError as problem:
        logger.warning("metrics could not be read: %s", problem)
        return error_response(503, "The database cannot be read now. Try again in a moment.", "NOT_READY")
    return HttpResponse(body, content_type=content_type)


@lru_cache(maxsize=1)
def _registry() -> CollectorRegistry:
    return studio_registry()


def _refusal(request: HttpRequest) -> HttpResponseBase | None:
    if settings.STUDIO.access == "local" or _holds_token(request):
        return None
    if not request.user.is_authenticated:
        sentence = "Log in as staff, or send the token of MUSICGEN_METRICS_TOKEN as a bearer token."
        answer = error_response(401, sentence, "LOGIN_REQUIRED")
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer
    if not request.user.is_staff:
        return error_response(
            403, "Only staff may see metrics. Ask the person who runs this studio.", "STAFF_ONLY"
        )
    return None


def _holds_token(request: HttpRequest) -> bool:
    token: str | None = settings.STUDIO.metrics_token
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if token is None or scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given.strip().encode(), token.encode())
