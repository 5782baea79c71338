"""Partials swapped out of band: the same templates as the page's own, told where to go by their root element."""

from __future__ import annotations

import time
from typing import Any

from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe


def reading() -> int:
    """The moment, in microseconds, for a partial's `data-read-at`: to be taken before the rows that it shows are read.

    What the socket tells can overtake the answer to a request, and the page keeps what was read later
    (static/js/morph.js).
    """
    return time.time_ns() // 1000


def out_of_band(template: str, context: dict[str, Any], request: HttpRequest | None = None) -> SafeString:
    """The partial, marked to be morphed into the element of the same id wherever the page has it."""
    html = render_to_string(template, context, request).strip()
    tag, rest = html.split(" ", 1)
    return mark_safe(f'{tag} hx-swap-oob="morph" {rest}')  # noqa: S308 - a rendered template, already escaped


def toast(
    message: str, *, undo_url: str = "", level: str = "", request: HttpRequest | None = None
) -> SafeString:
    """A notice added to the page's notices."""
    context = {"message": message, "undo_url": undo_url, "level": level}
    return format_html(
        '<div hx-swap-oob="beforeend:#toasts">{}</div>',
        mark_safe(render_to_string("generation/_toast.html", context, request)),  # noqa: S308 - as above
    )


def announcement(message: str) -> SafeString:
    """A sentence for people who listen to the page instead of looking at it."""
    return format_html('<div id="announcer" hx-swap-oob="innerHTML">{}</div>', message)
