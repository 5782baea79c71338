"""One POST to a judged address: no redirect, no answer read but its status, and an end in time. No Django.

httpcore makes the request; what it connects to is ours to say, so a name cannot mean another host a moment later.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

import httpcore2
import httpx2

from generation.webhooks.addresses import AddressRefused, Allowed, parse_target, resolve

#: From the first packet to the status line, in seconds.
DEADLINE: Final = 15.0
CONNECT_SECONDS: Final = 5.0


class SendFailed(Exception):
    """Nothing was delivered. `str()` is the sentence for people."""


def post(url: str, body: bytes, headers: dict[str, str], *, allowed: Allowed) -> int:
    """Send it and answer the status. Raises AddressRefused and SendFailed."""
    target = parse_target(url, allowed)
    addresses = resolve(target, allowed)
    ends_at = time.monotonic() + DEADLINE
    all_headers = {
        "Host": target.authority,
        **headers,
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    try:
        with (
            httpcore2.ConnectionPool(
                ssl_context=_trust(),
                network_backend=_Pinned(addresses, ends_at),
                http2=False,
            ) as pool,
            pool.stream(
                "POST",
                httpcore2.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path),
                headers=list(all_headers.items()),
                content=body,
            ) as response,
        ):
            return int(response.status)
    except (httpcore2.TimeoutException, TimeoutError):
        raise SendFailed(f"The receiver did not answer within {DEADLINE:g} seconds.") from None
    except ssl.SSLError as problem:
        raise SendFailed(_of_tls(problem)) from None
    except (httpcore2.NetworkError, OSError) as problem:
        cause: BaseException | None = problem
        while cause is not None and not isinstance(cause, ssl.SSLError):
            cause = cause.__cause__ or cause.__context__
        raise SendFailed(_of_tls(cause) if cause else "The receiver could not be reached.") from None
    except (httpcore2.ProtocolError, httpcore2.UnsupportedProtocol):
        raise SendFailed("The receiver did not answer as a web server does.") from None


@lru_cache(maxsize=1)
def _trust() -> ssl.SSLContext:
    """The authorities that the hub is trusted by, or those of SSL_CERT_FILE; read once, which takes a moment."""
    return httpx2.create_ssl_context()


def _of_tls(problem: BaseException) -> str:
    if isinstance(problem, ssl.SSLCertVerificationError):
        return f"The receiver's certificate is not valid: {problem.verify_message}."
    return "No secure connection to the receiver could be made."


class _Pinned(httpcore2.NetworkBackend):
    """Connects to the addresses that were judged, whatever the name means by now, and lets nothing last too long."""

    def __init__(self, addresses: list[str], ends_at: float) -> None:
        self._addresses = addresses
        self._ends_at = ends_at
        self._system = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """A connection to the first address that takes one."""
        problem: Exception = httpcore2.ConnectError("no address")
        for address in self._addresses:
            try:
                stream = self._system.connect_tcp(address, port, min(CONNECT_SECONDS, _left(self._ends_at)))
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as failure:
                problem = failure
            else:
                return _Bounded(stream, self._ends_at)
        raise problem


class _Bounded(httpcore2.NetworkStream):
    """A connection that ends in time, however slowly the other side speaks."""

    def __init__(self, stream: httpcore2.NetworkStream, ends_at: float) -> None:
        self._stream = stream
        self._ends_at = ends_at

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """As the stream's own."""
        return self._stream.read(max_bytes, _left(self._ends_at))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """As the stream's own."""
        self._stream.write(buffer, _left(self._ends_at))

    def close(self) -> None:
        """As the stream's own."""
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        """As the stream's own."""
        return _Bounded(
            self._stream.start_tls(ssl_context, server_hostname, _left(self._ends_at)), self._ends_at
        )

    def get_extra_info(self, info: str) -> Any:
        """As the stream's own."""
        return self._stream.get_extra_info(info)


def _left(ends_at: float) -> float:
    """Seconds until then. Raises ReadTimeout when there are none."""
    left = ends_at - time.monotonic()
    if left <= 0:
        raise httpcore2.ReadTimeout
    return left


__all__ = ["AddressRefused", "SendFailed", "post"]
