"""One record, one line that nobody can forge: plain text for a person, JSON for a collector.

Line breaks and control characters of what is logged are made harmless, and secrets of this studio are hidden.
"""

from __future__ import annotations

import json
import logging
import os
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.views.debug import SafeExceptionReporterFilter

from gated_configs.log_context import log_ids

HIDDEN: Final = "[hidden]"
#: Shorter secrets would hide ordinary words.
_LEAST_SECRET: Final = 6
#: Secrets of the libraries that we use, which read them from the environment themselves.
_TOKENS: Final = ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
#: Control characters, and those that reorder or hide text on a terminal.
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
#: What opens something by itself, wherever a library may write it: a link, a token, a key of a webhook. Its beginning
#: is kept.
_OPENS: Final = re.compile(r"(/setup/|/password/[^/\s]+/|\bmgs_|\bwhsec_)[\w+/=-]{12,}", re.ASCII)
#: Before each further line of one record: a line that begins otherwise is a record of its own.
_CONTINUED: Final = "\n  | "


class TextFormatter(logging.Formatter):
    """`time level logger: message [ids]`; a traceback follows on lines that are set apart."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        ids = " ".join(f"{name.removesuffix('_id')} {value}" for name, value in log_ids().items())
        first, *more = record.getMessage().splitlines() or [""]
        first += f" [{ids}]" if ids else ""
        lines = [first, *more, *_trace_of(self, record).splitlines()]
        start = f"{self.formatTime(record)} {record.levelname} {record.name}: "
        return start + _CONTINUED.join(_UNSAFE.sub(_escaped, hide_secrets(line)) for line in lines)


class JsonFormatter(logging.Formatter):
    """One JSON object a line; `extra={"facts": {...}}` adds fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON in ASCII: line breaks and everything unusual are escaped by that."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": hide_secrets(record.getMessage()),
            **log_ids(),
        }
        for name, value in getattr(record, "facts", {}).items():
            fields.setdefault(name, hide_secrets(value) if isinstance(value, str) else value)
        if trace := _trace_of(self, record):
            fields["exception"] = hide_secrets(trace)
        return json.dumps(fields, ensure_ascii=True, default=str)


def _trace_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info else []
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def hide_secrets(text: str) -> str:
    """The text without the secrets that this studio was started with, and those it gives to people."""
    studio = settings.STUDIO
    for secret in _secrets(
        studio.secret_key,
        studio.metrics_token,
        studio.database_url,
        studio.redis_url,
        studio.email_url,
        *map(os.environ.get, _TOKENS),
    ):
        text = text.replace(secret, HIDDEN)
    return _OPENS.sub(rf"\1{HIDDEN}", text)


class SecretsHidden(SafeExceptionReporterFilter):
    """Django's, which goes by names, and ours, which knows the secrets: an address of Redis holds a password, too."""

    def cleanse_setting(self, key: Any, value: Any) -> Any:
        """The value as the page with tracebacks may show it."""
        shown = super().cleanse_setting(key, value)
        return hide_secrets(shown) if isinstance(shown, str) else shown


@lru_cache(maxsize=8)
def _secrets(
    secret_key: str | None,
    token: str | None,
    database_url: str | None,
    redis_url: str | None,
    email_url: str | None,
    *tokens: str | None,
) -> tuple[str, ...]:
    """What must not be in a log, longest first; of an address only its password."""
    found = {secret_key or "", token or "", *(each or "" for each in tokens)}
    for address in (database_url, redis_url, email_url):
        password = urlsplit(address or "").password or ""
        found |= {password, unquote(password)}
    return tuple(sorted((each for each in found if len(each) >= _LEAST_SECRET), key=len, reverse=True))
