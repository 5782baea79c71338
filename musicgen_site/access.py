"""Who a request or a socket belongs to: the one owner in local mode, a logged-in person in shared mode.

Knows nothing of jobs and takes; what a person may see is decided by the services.
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode, urlsplit

from asgiref.sync import sync_to_async
from channels.auth import AuthMiddlewareStack
from channels.db import database_sync_to_async
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import make_password
from django.contrib.auth.middleware import LoginRequiredMiddleware
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.deprecation import MiddlewareMixin
from django.utils.functional import SimpleLazyObject

from musicgen_site.database_away import SocketsWithoutDatabase
from musicgen_site.security import SameOriginSockets, error_response, is_api_request, refuse_socket

OWNER_USERNAME = "owner"


def get_owner() -> User:
    """The one user of local mode, created when missing, with every right and no password to guess."""
    rights = {"is_active": True, "is_staff": True, "is_superuser": True}
    owner, created = get_user_model().objects.get_or_create(
        username=OWNER_USERNAME, defaults={**rights, "password": make_password(None)}
    )
    if not created and not all(getattr(owner, name) for name in rights):
        for name, value in rights.items():
            setattr(owner, name, value)
        owner.save(update_fields=list(rights))
    return owner


class OwnerMiddleware(MiddlewareMixin):
    """Local mode: every request is the owner's. The row is read only when somebody asks for the user."""

    def process_request(self, request: HttpRequest) -> None:
        """Set `request.user` and `request.auser`."""
        owner: Any = SimpleLazyObject(get_owner)

        async def auser() -> User:
            return await sync_to_async(get_owner)()

        request.user = owner
        request.auser = auser


class LoginMiddleware(LoginRequiredMiddleware):
    """Shared mode: every view needs a login, except those that say otherwise."""

    def handle_no_permission(  # type: ignore[override]  # the stubs promise a redirect, Django takes any answer
        self, request: HttpRequest, view_func: Callable[..., HttpResponseBase]
    ) -> HttpResponseBase:
        """API: 401 in the error shape. HTMX: a full-page visit to the login. Pages: a redirect."""
        if is_api_request(request):
            return error_response(401, "Log in first.", "LOGIN_REQUIRED")
        if request.headers.get("HX-Request"):
            current = urlsplit(request.headers.get("HX-Current-URL", "/"))
            page = current.path + (f"?{current.query}" if current.query else "")
            login_url = f"{settings.LOGIN_URL}?{urlencode({'next': page or '/'})}"
            return HttpResponse(status=401, headers={"HX-Redirect": login_url})
        return super().handle_no_permission(request, view_func)


class OwnerScopeMiddleware:
    """ASGI middleware, local mode: every socket is the owner's."""

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        """Pass the socket on with `scope["user"]`."""
        user = await database_sync_to_async(get_owner)()
        return await self.application({**scope, "user": user}, receive, send)


class LoginScopeMiddleware:
    """ASGI middleware, shared mode: refuses a socket without a login. Stands inside AuthMiddlewareStack."""

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        """Pass the socket on, or close it before it is accepted."""
        if scope["user"].is_authenticated:
            return await self.application(scope, receive, send)
        return await refuse_socket(receive, send)


def socket_access(application: Any) -> Any:
    """Wrap the socket application in the checks of this studio's mode; it then finds `scope["user"]`."""
    if settings.STUDIO.access == "local":
        checked: Any = OwnerScopeMiddleware(application)
    else:
        checked = AuthMiddlewareStack(LoginScopeMiddleware(application))
    return SameOriginSockets(SocketsWithoutDatabase(checked))
