"""API tokens in requests: `Authorization: Bearer mgs_...`, for the API alone. What jobs and takes are, it does not know.

A request with a token is the token's owner's, whatever cookies came with it; without a valid one it is refused.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponseBase
from django.utils.deprecation import MiddlewareMixin

from gated_configs.services.rate_limits import Limit, take
from gated_configs.wording import rough_seconds
from musicgen_site.models import TokenScope
from musicgen_site.request_in_hand import address_of, network_of
from musicgen_site.security import SAFE_METHODS, error_response, is_api_request
from musicgen_site.services.tokens import find_token

#: Tokens that are not valid, from one address. A valid one always passes: it cannot be guessed.
BAD_TOKENS: Final = Limit("bad-token", 20, 10 * 60)

#: What a token needs for a request that changes something, by the beginning of its path; anything else needs `manage`.
_CHANGES: Final = (
    (re.compile(r"/api/generations(/|$)"), TokenScope.GENERATE),
    (re.compile(r"/api/takes(/|$)"), TokenScope.GENERATE),
    (re.compile(r"/api/trials(/|$)"), TokenScope.GENERATE),
    (re.compile(r"/api/adapters/\d+/trials/?$"), TokenScope.GENERATE),
    # Configs that people save are theirs alone.
    (re.compile(r"/api/models/config/submit/?$"), TokenScope.GENERATE),
    # Who may make music may hear when it is done.
    (re.compile(r"/api/webhooks(/|$)"), TokenScope.GENERATE),
    # These compute and keep nothing.
    (re.compile(r"/api/models/(analyze|calculate|compare|validate)/?$"), TokenScope.READ),
)


def needed_scope(method: str | None, path: str) -> TokenScope:
    """What a token must be allowed to do for such a request."""
    if method in SAFE_METHODS:
        return TokenScope.READ
    return next((scope for pattern, scope in _CHANGES if pattern.match(path)), TokenScope.MANAGE)


class TokenMiddleware(MiddlewareMixin):
    """Shared mode: a request to the API with a bearer token is its owner's. Stands between sessions and the login check."""

    def process_request(self, request: HttpRequest) -> HttpResponseBase | None:
        """Set `request.user` and `request.api_token`, or refuse."""
        if settings.STUDIO.access == "local" or not is_api_request(request):
            return None
        kind, _, secret = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer":
            return None
        token = find_token(secret.strip())
        if token is None:
            return _refuse_unknown(request)
        needed = needed_scope(request.method, request.path)
        if not TokenScope(token.scope).includes(needed):
            return error_response(
                403,
                f"This token may not do that: it is for “{token.get_scope_display()}”, and this needs "
                f"“{needed.label}”. Make another on the account page.",
                "TOKEN_SCOPE",
            )
        owner: Any = token.owner

        async def auser() -> User:
            return token.owner

        request.user = owner
        request.auser = auser
        request.api_token = token  # type: ignore[attr-defined]  # ours, for the audit log
        return None


def _refuse_unknown(request: HttpRequest) -> HttpResponseBase:
    wait = take(BAD_TOKENS, network_of(address_of(request)))
    if wait:
        answer = error_response(
            429,
            f"There were too many requests with a token that is not valid. Try again in {rough_seconds(wait)}.",
            "TOO_MANY_REQUESTS",
        )
        answer.headers["Retry-After"] = str(math.ceil(wait))
        return answer
    answer = error_response(
        401,
        "This token is not valid: it is mistyped, expired or revoked. Make another on the account page.",
        "TOKEN_INVALID",
    )
    answer.headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'
    return answer
