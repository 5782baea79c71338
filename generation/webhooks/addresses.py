"""Where a webhook may lead: public addresses, and what the operator allows beside them. Knows nothing of Django.

A name is resolved once for each attempt, every address it has is judged, and the connection is made to one of those.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address

MAX_URL_CHARACTERS: Final = 500
#: Of a name with more addresses than this, the first are looked at and used.
MAX_ADDRESSES: Final = 16
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*", re.ASCII)
#: IPv4 addresses written as IPv6 ones, of networks that translate.
_NAT64: Final = IPv6Network("64:ff9b::/96")
#: What Python's own lists miss, which grow with its releases: doors inside of some clouds (168.63.129.16, 192.0.0.192),
#: tunnels whose other end is written into the address, and what is set apart for tests and protocols.
_SET_APART: Final = tuple(
    ip_network(text)
    for text in (
        *("100.64.0.0/10", "168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15"),
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
    )
)
#: All that is given out of IPv6 so far.
_GLOBAL_IPV6: Final = IPv6Network("2000::/3")


class AddressRefused(ValueError):
    """The address cannot be called. `str()` is the sentence for people, and tells nothing of the network."""


@dataclass(frozen=True)
class Target:
    """An address of a webhook, taken apart. `host` is a name in lower case or an IP address."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and, where it is not the usual one, port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True)
class Allowed:
    """What the operator allows although it is not public."""

    hosts: frozenset[str]
    networks: tuple[object, ...]

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Allowed:
        """Read names, addresses and networks. Raises ValueError with a sentence."""
        hosts, networks = set(), []
        for entry in entries:
            try:
                networks.append(ip_network(entry.strip("[]"), strict=False))
            except ValueError:
                if not _NAME.fullmatch(entry):
                    raise ValueError(
                        f'"{entry}" is neither a host name nor a network such as 192.168.1.0/24.'
                    ) from None
                hosts.add(entry)
        return cls(frozenset(hosts), tuple(networks))

    def has(self, address: Address) -> bool:
        """Whether it lies in one of the networks."""
        plain = _plain(address)
        return any(plain in network for network in self.networks)  # type: ignore[operator]  # either version


def parse_target(url: str, allowed: Allowed) -> Target:
    """Take an address apart and refuse what could never be called. Asks no name server. Raises AddressRefused."""
    if len(url) > MAX_URL_CHARACTERS:
        raise AddressRefused(
            f"The address has {len(url)} characters and the limit is {MAX_URL_CHARACTERS}. Use a shorter one."
        )
    if not url.strip():
        raise AddressRefused(
            "Write the address that is to hear of your jobs, such as https://example.org/hook."
        )
    if not re.fullmatch(r"[!-~]+", url) or "\\" in url:
        raise AddressRefused(
            "Write the address with letters, digits and signs of ASCII only, without spaces."
        )
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise AddressRefused("This is no address. Write one such as https://example.org/hook.") from None
    if parts.scheme not in _PORTS or not host:
        raise AddressRefused("Write an address that begins with https://, such as https://example.org/hook.")
    if parts.username is not None or parts.password is not None:
        raise AddressRefused(
            "The address may hold no user name and password. The signature proves who sends."
        )
    literal = _literal(host)
    if literal is None and not _NAME.fullmatch(host):
        raise AddressRefused(f"{host[:80]} is not the name of a host.")
    if port == 0:
        raise AddressRefused("Port 0 cannot be called.")
    if parts.scheme == "http" and not _may_be_allowed(host, literal, allowed):
        raise AddressRefused("Use https://: over plain HTTP everybody on the way can read the message.")
    if literal is not None and not (is_public(literal) or allowed.has(literal)):
        raise AddressRefused(NOT_PUBLIC)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or _PORTS[parts.scheme], path)


NOT_PUBLIC: Final = "The address leads to no public host. Use a public one, or ask the person who runs the studio to allow it."


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _may_be_allowed(host: str, literal: Address | None, allowed: Allowed) -> bool:
    if literal is not None:
        return allowed.has(literal)
    return host in allowed.hosts or bool(allowed.networks)


def resolve(target: Target, allowed: Allowed) -> list[str]:
    """The addresses to connect to, each of them judged. Raises AddressRefused where the name has none, or a wrong one.

    One sentence for both: who may not reach the inside shall not learn its names either.
    """
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise AddressRefused(NOT_PUBLIC) from None
    texts = list(dict.fromkeys(str(entry[4][0]) for entry in found))[:MAX_ADDRESSES]
    if not texts:
        raise AddressRefused(NOT_PUBLIC)
    for text in texts:
        address = ip_address(text.partition("%")[0])
        is_allowed = target.host in allowed.hosts or allowed.has(address)
        if not is_allowed and (target.scheme == "http" or not is_public(address)):
            raise AddressRefused(NOT_PUBLIC)
    return texts


def is_public(address: Address) -> bool:
    """Whether it is of the open internet: not private, loopback, link-local, shared, reserved, or one in disguise."""
    address = _plain(address)
    if any(address in network for network in _SET_APART):
        return False
    if isinstance(address, IPv6Address) and address not in _GLOBAL_IPV6:
        return False
    return address.is_global and not (
        address.is_multicast
        or address.is_reserved
        or address.is_unspecified
        or address.is_loopback
        or address.is_link_local
        or address.is_private
    )


def _plain(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one, where it is only another way to write it."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address
