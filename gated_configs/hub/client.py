"""Asks the hub over HTTP: its address and token, redirects, and an answer that can be left at any moment.

Each answer is received on a thread of its own, so that a stalled connection never delays a cancel.
"""

from __future__ import annotations

import functools
import os
import queue
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import httpx2
from huggingface_hub import constants, get_token

from gated_configs.hub.errors import (
    BAD_TOKEN,
    HUB_ERROR,
    HUB_UNREACHABLE,
    INCOMPLETE,
    DownloadCancelled,
    DownloadFailed,
    Interrupted,
)

_CONNECT_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.1
_MAX_REDIRECTS: Final = 10
_CHUNKS_AHEAD: Final = 64  # of at most 64 KiB each
_PORTS = {"http": 80, "https": 443}

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Hub:
    """Where the hub is and who asks."""

    endpoint: str
    token: str | None = field(default=None, repr=False)
    is_offline: bool = False

    @property
    def address(self) -> str:
        """The endpoint for people to see, without a password that may stand in it."""
        return _without_secrets(httpx2.URL(self.endpoint)).rstrip("/")


def hub_of(endpoint: str | None = None, token: str | None = None) -> Hub:
    """The hub at `endpoint`, or where the environment says; `token` likewise, "" for none.

    The environment is read now, since the library reads it only once. Raises DownloadFailed for an address or a
    token that cannot be one.
    """
    address = (endpoint or default_endpoint()).rstrip("/")
    try:
        url = httpx2.URL(address)
        is_address = url.scheme in _PORTS and bool(url.host)
    except httpx2.InvalidURL:
        is_address = False
    if not is_address:
        raise DownloadFailed(
            HUB_UNREACHABLE,
            "HF_ENDPOINT is not a web address. Remove it, or set it to one such as https://huggingface.co.",
        )
    if token is None and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        token = get_token()
    if token and not (token.isascii() and token.isprintable()):
        raise DownloadFailed(BAD_TOKEN, "HF_TOKEN holds characters that no token has. Copy the token again.")
    return Hub(endpoint=address, token=token or None, is_offline=_is_offline())


def default_endpoint() -> str:
    """The hub's address from HF_ENDPOINT as it is now."""
    return os.environ.get("HF_ENDPOINT") or constants._HF_DEFAULT_ENDPOINT


def _is_offline() -> bool:
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in constants.ENV_VARS_TRUE_VALUES


@dataclass(frozen=True, kw_only=True)
class Head:
    """How an answer begins."""

    status: int
    headers: Mapping[str, str]
    is_of_hub: bool  # and not of a store that the hub sent us on to
    address: str  # without the query, which may be a signature
    commit: str = ""  # as the hub named it, itself or when it sent us on

    @property
    def is_html(self) -> bool:
        """Whether a web page comes where a file or a listing was asked for."""
        return self.headers.get("content-type", "").lower().startswith("text/html")


class Answer:
    """The hub's answer to one request, received on a thread of its own. Close it when done with it."""

    def __init__(
        self,
        hub: Hub,
        path: str,
        *,
        should_stop: Callable[[], bool],
        offset: int = 0,
        method: str = "GET",
    ) -> None:
        """Ask and wait for the head. Raises Interrupted, DownloadFailed, DownloadCancelled."""
        if hub.is_offline:
            raise DownloadFailed(
                HUB_UNREACHABLE, "HF_HUB_OFFLINE is set, so nothing is fetched. Unset it and try again."
            )
        self._hub = hub
        self._should_stop = should_stop
        self._items: queue.Queue[Head | bytes | Exception | None] = queue.Queue(maxsize=_CHUNKS_AHEAD)
        self._is_left = threading.Event()
        threading.Thread(
            target=self._receive, args=(hub.endpoint + path, method, offset), name="download", daemon=True
        ).start()
        try:
            item = self._next()
        except BaseException:
            self.close()
            raise
        assert isinstance(item, Head)
        self.head = item

    def chunks(self) -> Iterator[bytes]:
        """The body as it arrives. Raises Interrupted when it breaks off, DownloadCancelled when asked to."""
        while (item := self._next()) is not None:
            assert isinstance(item, bytes)
            yield item

    def close(self) -> None:
        """Leave the answer: its thread ends by itself, at the latest when the connection times out."""
        self._is_left.set()

    def _next(self) -> Head | bytes | None:
        while True:
            if self._should_stop():
                raise DownloadCancelled
            try:
                item = self._items.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if isinstance(item, Exception):
                raise self._failure(item) from item
            return item

    def _failure(self, error: Exception) -> Exception:
        detail = f"{type(error).__name__}: {error}"
        if isinstance(error, DownloadFailed):
            return error
        if isinstance(error, httpx2.TransportError) and not isinstance(error, httpx2.UnsupportedProtocol):
            if hasattr(self, "head"):
                return Interrupted(
                    INCOMPLETE,
                    "The connection to the hub broke off. Try again: it goes on from there.",
                    detail,
                )
            message = f"The hub at {self._hub.address} cannot be reached. Check the connection and try again."
            return Interrupted(HUB_UNREACHABLE, message, detail)
        if isinstance(error, (httpx2.HTTPError, httpx2.InvalidURL, ValueError)):
            message = (
                "The hub answered with something that cannot be followed. Check HF_ENDPOINT and try again."
            )
            return DownloadFailed(HUB_ERROR, message, detail)
        return error

    # --- on the answer's own thread ---

    def _receive(self, address: str, method: str, offset: int) -> None:
        read_seconds = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
        timeout = httpx2.Timeout(_CONNECT_SECONDS, read=read_seconds)
        try:
            with httpx2.Client(verify=_ssl_context(), timeout=timeout, follow_redirects=False) as client:
                response, commit = self._follow(client, httpx2.URL(address), method, offset)
                try:
                    self._put(
                        Head(
                            status=response.status_code,
                            headers=response.headers,
                            is_of_hub=is_same_server(response.url, httpx2.URL(self._hub.endpoint)),
                            address=_without_secrets(response.url),
                            commit=commit,
                        )
                    )
                    for chunk in response.iter_raw():
                        self._put(chunk)
                    self._put(None)
                finally:
                    response.close()
        except _Left:
            return
        except Exception as error:  # noqa: BLE001 - raised again on the thread that waits
            try:
                self._put(error)
            except _Left:
                return

    def _follow(
        self, client: httpx2.Client, url: httpx2.URL, method: str, offset: int
    ) -> tuple[httpx2.Response, str]:
        """The answer at the end of all redirects, and the commit that the hub named on the way."""
        endpoint = httpx2.URL(self._hub.endpoint)
        commit = ""
        for _ in range(_MAX_REDIRECTS + 1):
            # Compressed bytes could neither be counted nor asked for in part.
            headers = {"accept-encoding": "identity", "user-agent": "musicgen-studio"}
            if offset:
                headers["range"] = f"bytes={offset}-"
            if self._hub.token and is_same_server(url, endpoint):
                headers["authorization"] = f"Bearer {self._hub.token}"
            response = client.send(client.build_request(method, url, headers=headers), stream=True)
            if is_same_server(url, endpoint):
                commit = response.headers.get("x-repo-commit", commit)
            if not response.has_redirect_location:
                return response, commit
            response.close()
            target = url.join(response.headers["location"])
            if target.scheme not in _PORTS or (url.scheme == "https" and target.scheme == "http"):
                raise DownloadFailed(
                    HUB_ERROR,
                    "The hub sent us on to an address that is not safe to follow. Check HF_ENDPOINT.",
                    f"{_without_secrets(url)} leads to {_without_secrets(target)}",
                )
            url = target
        raise DownloadFailed(
            HUB_ERROR,
            "The hub sent us in circles. Check HF_ENDPOINT, or try again later.",
            _without_secrets(url),
        )

    def _put(self, item: Head | bytes | Exception | None) -> None:
        while not self._is_left.is_set():
            try:
                self._items.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return
        raise _Left


class _Left(Exception):
    """Nobody waits for this answer any more."""


def with_retries(
    attempt: Callable[[], T],
    *,
    should_stop: Callable[[], bool],
    pauses_seconds: Sequence[float],
    progress_bytes: Callable[[], int] = lambda: 0,
) -> T:
    """What `attempt` answers, trying again after Interrupted with these pauses; tries that got further are free."""
    failures = 0
    while True:
        before = progress_bytes()
        try:
            return attempt()
        except Interrupted as error:
            if progress_bytes() > before:
                failures = 0
            if failures >= len(pauses_seconds):
                raise
            _pause(max(pauses_seconds[failures], error.pause_seconds), should_stop)
            failures += 1


def _pause(seconds: float, should_stop: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if should_stop():
            raise DownloadCancelled
        time.sleep(min(_POLL_SECONDS, left))


def is_same_server(url: httpx2.URL, other: httpx2.URL) -> bool:
    """Whether both are one server: same host and port, or the same host gone over to https."""
    ours, theirs = (each.port or _PORTS.get(each.scheme) for each in (url, other))
    if url.host != other.host:
        return False
    upgraded = (other.scheme, theirs, url.scheme, ours) == ("http", 80, "https", 443)
    return upgraded or (url.scheme, ours) == (other.scheme, theirs)


def _without_secrets(url: httpx2.URL) -> str:
    port = f":{url.port}" if url.port else ""
    return f"{url.scheme}://{url.host}{port}{url.path}"


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    return httpx2.create_ssl_context()
