"""Where `serve` may listen: local mode never beyond this machine."""

import socket
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from musicgen_site.security import check_listen_address


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.53", "::1", "[::1]", "::ffff:7f00:1", " 127.0.0.1 "])
def test_local_mode_listens_on_loopback_addresses(host: str) -> None:
    assert check_listen_address(host, "local") == host.strip().strip("[]")


def test_a_name_is_resolved_to_the_address_that_was_checked() -> None:
    assert check_listen_address("localhost", "local") in {"127.0.0.1", "::1"}


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.20", "8.8.8.8", "", "0", "::ffff:8.8.8.8", "fe80::1"]
)
def test_local_mode_refuses_every_other_address(host: str) -> None:
    with pytest.raises(ImproperlyConfigured) as refused:
        check_listen_address(host, "local")
    sentence = str(refused.value)
    assert sentence.startswith("Local mode has no login, so it only listens on this machine. To listen on ")
    assert "MUSICGEN_ACCESS=shared" in sentence


def resolve_to(*addresses: str) -> Any:
    """A resolver that answers every name with `addresses`."""

    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))
            if ":" not in address
            else (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, 0, 0, 0))
            for address in addresses
        ]

    return getaddrinfo


def test_a_name_that_also_points_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolve_to("127.0.0.1", "10.0.0.7"))
    with pytest.raises(ImproperlyConfigured, match="To listen on studio"):
        check_listen_address("studio", "local")


def test_a_scoped_loopback_name_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolve_to("::1%lo", "127.0.0.1"))
    assert check_listen_address("studio", "local") == "127.0.0.1"


@pytest.mark.parametrize("host", ["no such host", "a" * 300, "nowhere.invalid", "é" * 70])
def test_a_name_that_does_not_resolve_is_explained(host: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="cannot be resolved"):
        check_listen_address(host, "local")


def test_shared_mode_listens_anywhere_once_its_names_are_known() -> None:
    assert check_listen_address("0.0.0.0", "shared", ["studio.example"]) == "0.0.0.0"
    assert check_listen_address("127.0.0.1", "shared", []) == "127.0.0.1"
    with pytest.raises(ImproperlyConfigured, match="MUSICGEN_ALLOWED_HOSTS"):
        check_listen_address("0.0.0.0", "shared", [])
