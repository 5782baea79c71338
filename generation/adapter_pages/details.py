"""What people may say of an adapter, between a form's text and the wish that the services check."""

from __future__ import annotations

import math
import re
from typing import Final

from django.http import QueryDict

from adapters.models import Adapter
from adapters.services.editing import Wording
from gated_configs.wording import plain_number

#: Fields of the form, in its order.
DETAILS: Final = ("name", "version", "description", "trigger_words", "default_strength", "base_model")

_NUMBER: Final = re.compile(r"[+-]?(\d{1,20}(\.\d{0,20})?|\.\d{1,20})", re.ASCII)


def wording_of(sent: QueryDict) -> Wording:
    """What the form says. What was cleared is "" here: the services decide whether it may be empty."""
    return Wording(
        name=sent.get("name", "").strip(),
        version=sent.get("version", "").strip(),
        description=sent.get("description", ""),
        trigger_words=sent.get("trigger_words", ""),
        default_strength=_strength(sent.get("default_strength", "")),
        base_model=sent.get("base_model", ""),
    )


def _strength(text: str) -> float | None:
    """None for an empty field; not a number for what is none, so that the service refuses it in its own words."""
    text = text.strip().replace(",", ".")
    if not text:
        return None
    return float(text) if _NUMBER.fullmatch(text) else math.nan


def values_of(adapter: Adapter) -> dict[str, str]:
    """The form as it starts: what the adapter says now."""
    return {
        **{name: str(getattr(adapter, name)) for name in DETAILS},
        "default_strength": plain_number(adapter.default_strength),
        "base_model": adapter.base_model_id or "",
    }


def sent_values(sent: QueryDict) -> dict[str, str]:
    """The form as it was sent, to be shown again."""
    return {name: sent.get(name, "") for name in DETAILS}
