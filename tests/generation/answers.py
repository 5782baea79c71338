"""What answers to htmx must have in common."""

import re
from typing import Any


def assert_says_when_it_was_read(answer: Any) -> None:
    """A part that the socket renews, too: out of band, since its form may be gone, and with the moment of its reading."""
    html = answer.content.decode()
    assert re.match(r'<section hx-swap-oob="morph" id="[a-z-]+" [^>]*data-read-at="1\d{15}"', html), html[
        :300
    ]
