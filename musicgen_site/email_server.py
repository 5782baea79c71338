"""The mail server, told in one address: `smtp://`, `smtp+tls://` (STARTTLS) or `smtp+ssl://`; `console:` prints mails.

Knows nothing of Django; settings.py hands the parts on.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

_PORTS = {"smtp": 25, "smtp+tls": 587, "smtp+ssl": 465}


@dataclass(frozen=True)
class EmailServer:
    """Where mails go. `backend` is the last part of the name of Django's backend."""

    backend: str
    host: str = "localhost"
    port: int = 25
    user: str = ""
    password: str = ""
    use_tls: bool = False
    use_ssl: bool = False


def parse_email_url(url: str | None) -> EmailServer:
    """The server behind an address; none keeps every mail to itself. Raises ValueError, without naming the password."""
    if url is None:
        return EmailServer("dummy")
    problem = ValueError("write it as smtp+tls://user:password@host:587, or console: to print mails.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise problem from None
    if parts.scheme == "console":
        return EmailServer("console")
    if parts.scheme not in _PORTS or not parts.hostname:
        raise problem
    return EmailServer(
        "smtp",
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        use_tls=parts.scheme == "smtp+tls",
        use_ssl=parts.scheme == "smtp+ssl",
    )
