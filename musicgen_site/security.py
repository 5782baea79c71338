"""What keeps other sites and other machines out: listen address, cross-site requests, headers.

Knows nothing of users; who may see what is decided in access.py and in the services.
"""

import ipaddress
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseForbidden, JsonResponse
from django.http.request import split_domain_port, validate_host
from django.utils.cache import patch_vary_headers
from django.utils.deprecation import MiddlewareMixin

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
#: Kinds of answers that are made for one person; files that never change say themselves how long they may be kept.
_OF_SOMEBODY = frozenset({"text/html", "application/json", "text/csv"})
DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def check_listen_address(host: str, access: str, allowed_hosts: Sequence[str] | None = None) -> str:
    """The address to listen on for `host`; a name is resolved here, once, so that it cannot change later.

    Raises ImproperlyConfigured with a sentence: in local mode for anything but this machine's loopback, and
    in shared mode for other addresses when `allowed_hosts` is given and empty.
    """
    name = host.strip()
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    addresses = _addresses_of(name)
    if access != "local":
        if allowed_hosts is not None and not allowed_hosts and not all(map(_is_loopback, addresses)):
            raise ImproperlyConfigured(
                f"To listen on {name or 'all addresses'}, set MUSICGEN_ALLOWED_HOSTS to the host names under "
                "which people reach the studio, as in MUSICGEN_ALLOWED_HOSTS=studio.example,192.168.1.20."
            )
        return name
    if not all(map(_is_loopback, addresses)):
        raise ImproperlyConfigured(
            "Local mode has no login, so it only listens on this machine. "
            f"To listen on {name or 'all addresses'}, set MUSICGEN_ACCESS=shared, set MUSICGEN_ALLOWED_HOSTS "
            "to the host names people use, and make an account with `manage.py createsuperuser`."
        )
    return min(addresses, key=lambda address: ":" in address)


def _addresses_of(name: str) -> list[str]:
    if not name:
        return ["0.0.0.0"]  # noqa: S104 - what an empty address means, not a choice
    try:
        return [str(ipaddress.ip_address(name))]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ImproperlyConfigured(
            f'The address "{name}" in MUSICGEN_HOST cannot be resolved. Use an address such as 127.0.0.1.'
        ) from error
    return [str(entry[4][0]) for entry in found]


def _is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def is_same_origin(origin: str, host: str) -> bool:
    """Whether an Origin header names the host a request was sent to; a missing port is the scheme's own."""
    try:
        parts = urlsplit(origin)
        origin_port = parts.port
    except ValueError:
        return False
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        return False
    default_port = DEFAULT_PORTS[parts.scheme]
    host_name, host_port = split_domain_port(host)
    if not host_name:
        return False
    origin_host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return origin_host == host_name and (origin_port or default_port) == int(host_port or default_port)


def is_allowed_host(host: str) -> bool:
    """Whether a Host header names this studio. Sockets ask here; for requests Django does."""
    name, _port = split_domain_port(host)
    return bool(name) and validate_host(name, settings.ALLOWED_HOSTS)


def is_api_request(request: HttpRequest) -> bool:
    """Whether an answer should have the API's error shape; the API's documentation is a page."""
    return request.path.startswith("/api/") and request.path.rstrip("/") != "/api/docs"


def error_response(status: int, error: str, error_code: str) -> JsonResponse:
    """The one error shape: `{"error": sentence, "error_code": CODE}`."""
    return JsonResponse({"error": error, "error_code": error_code}, status=status)


class CrossSiteMiddleware(MiddlewareMixin):
    """Refuses requests that change something when a browser says that another site sent them.

    Local mode has no login, so any page open in the same browser could otherwise post here. Programs that are
    not browsers send neither header and pass.
    """

    def process_request(self, request: HttpRequest) -> HttpResponseBase | None:
        """Answer 403 to a cross-site request with an unsafe method."""
        if request.method in SAFE_METHODS:
            return None
        site = request.headers.get("Sec-Fetch-Site", "none")
        origin = request.headers.get("Origin")
        if site in {"same-origin", "none"} and (origin is None or is_same_origin(origin, request.get_host())):
            return None
        sentence = "This request came from another site, so it was refused. Open the studio and try again."
        if is_api_request(request) or request.headers.get("HX-Request"):
            return error_response(403, sentence, "CROSS_SITE")
        return HttpResponseForbidden(sentence, content_type="text/plain; charset=utf-8")


class SecurityHeadersMiddleware(MiddlewareMixin):
    """Headers on every answer, static files included, that Django's own middleware does not set."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """Keep other sites from embedding takes and pages, and caches from mixing partials with pages."""
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
        kind = response.headers.get("Content-Type", "").partition(";")[0]
        if isinstance(response, HttpResponse) and kind == "text/html":
            patch_vary_headers(response, ["HX-Request"])
        if settings.STUDIO.access == "shared" and kind in _OF_SOMEBODY:
            # Neither a proxy nor the next person at the same browser finds what somebody saw before they logged out.
            response.headers.setdefault("Cache-Control", "private, no-store")
        return response


class ApiErrorMiddleware(MiddlewareMixin):
    """Puts refusals that the framework makes for the API, such as an unknown address, into the error shape."""

    sentences = {
        400: ("The request could not be read. See /api/docs for what can be sent.", "INVALID_REQUEST"),
        403: ("This is not allowed. Open the studio and try again.", "FORBIDDEN"),
        404: ("There is nothing here. See /api/docs for every address.", "NOT_FOUND"),
        405: (
            "This address does not know that method. See /api/docs for those it knows.",
            "METHOD_NOT_ALLOWED",
        ),
        500: ("Something in the studio went wrong. Its log says what.", "STUDIO_ERROR"),
    }

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """Replace pages and plain text; answers in JSON, and tracebacks for developers, pass."""
        is_json = response.headers.get("Content-Type", "").startswith("application/json")
        in_words = self.sentences.get(response.status_code)
        if in_words is None or is_json or not is_api_request(request):
            return response
        if settings.DEBUG and response.status_code == 500:
            return response
        answer = error_response(response.status_code, *in_words)
        if "Allow" in response.headers:
            answer.headers["Allow"] = response.headers["Allow"]
        return answer


class SameOriginSockets:
    """ASGI middleware: refuses a socket whose Host is not ours or whose Origin is another site.

    Both are needed: a name that an attacker points at 127.0.0.1 sends an Origin equal to its Host.
    """

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        """Pass the socket on, or close it before it is accepted."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope.get("headers", [])}
        host = headers.get(b"host", "")
        origin = headers.get(b"origin")
        if is_allowed_host(host) and (origin is None or is_same_origin(origin, host)):
            return await self.application(scope, receive, send)
        return await refuse_socket(receive, send)


async def refuse_socket(receive: Any, send: Any) -> None:
    """Close a socket before it is accepted; the browser sees a failed handshake with status 403."""
    await receive()
    await send({"type": "websocket.close", "code": 4403})
