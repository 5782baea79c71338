"""The request that is being answered, for those deep inside who must know where it came from. Decides nothing."""

from __future__ import annotations

import ipaddress
from contextvars import ContextVar
from typing import Final

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.deprecation import MiddlewareMixin

request_in_hand: Final[ContextVar[HttpRequest | None]] = ContextVar("request_in_hand", default=None)


class RequestInHandMiddleware(MiddlewareMixin):
    """Holds the request while it is answered."""

    def process_request(self, request: HttpRequest) -> None:
        """Take it. Behind a proxy it then names whom the proxy speaks for, wherever somebody asks for the address."""
        if settings.STUDIO.behind_https_proxy:
            request.META["REMOTE_ADDR"] = address_of(request) or request.META.get("REMOTE_ADDR", "")
        request_in_hand.set(request)

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """Let it go."""
        request_in_hand.set(None)
        return response


def address_of(request: HttpRequest) -> str:
    """The address a request came from, or "" when it has none.

    Behind a proxy that is the last entry of X-Forwarded-For, which the proxy itself has added; what stands before it
    was written by whoever sent the request.
    """
    named = str(request.META.get("REMOTE_ADDR", ""))
    if settings.STUDIO.behind_https_proxy:
        named = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip() or named
    try:
        address = ipaddress.ip_address(named.partition("%")[0])
    except ValueError:
        return ""
    return str(getattr(address, "ipv4_mapped", None) or address)


def network_of(address: str) -> str:
    """What counts as one place for limits: an IPv4 address, or the /64 that one IPv6 customer has."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network(f"{address}/64", strict=False))
