"""What people may say of an adapter: name, version, description, trigger words, strength, base model. And finding one.

The same rules hold for an import, the API, the pages and the admin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from adapters.events import AdaptersChanged
from adapters.format.errors import AdapterRefused
from adapters.importing.model_card import plain_line
from adapters.models import MAX_STRENGTH, Adapter
from gated_configs.wording import plain_number
from registry.events import send_on_commit
from registry.models import ModelConfig
from registry.services import get_model_config

ADAPTER_NAME_TAKEN: Final = "ADAPTER_NAME_TAKEN"
BASE_MODEL_IMPOSSIBLE: Final = "BASE_MODEL_IMPOSSIBLE"
FIELD_INVALID: Final = "FIELD_INVALID"

_MAX_ID: Final = 2**63 - 1
#: Longest text of each field, and whether it may have several lines.
_LIMITS: Final = {
    "name": (120, False),
    "version": (40, False),
    "description": (4000, True),
    "trigger_words": (500, False),
}
_WORDS: Final = {"trigger_words": "trigger words", "default_strength": "strength"}


class AdapterNotFound(LookupError):
    """No adapter of that id. `str()` is the sentence for people."""

    def __init__(self, adapter_id: int) -> None:
        self.adapter_id = adapter_id
        super().__init__(f"There is no adapter {adapter_id}. It may have been deleted.")


@dataclass(frozen=True)
class Wording:
    """What people say of an adapter; None leaves a field as it is. `base_model` is an id, and "" means unknown."""

    name: str | None = None
    version: str | None = None
    description: str | None = None
    trigger_words: str | None = None
    default_strength: float | None = None
    base_model: str | None = None


def get_adapter(adapter_id: int) -> Adapter:
    """The adapter of that id, with its base model. Raises AdapterNotFound."""
    adapter = None
    if 0 < adapter_id <= _MAX_ID:
        adapter = Adapter.objects.select_related("base_model", "imported_by").filter(pk=adapter_id).first()
    if adapter is None:
        raise AdapterNotFound(adapter_id)
    return adapter


def edit_adapter(adapter: Adapter, wording: Wording) -> Adapter:
    """Change what is said of an adapter, and answer it. Raises AdapterRefused, ModelNotFound; then nothing changes."""
    changes = checked(wording)
    if wording.base_model is not None:
        changes["base_model"] = get_model_config(wording.base_model) if wording.base_model else None
    before = {name: getattr(adapter, name) for name in changes}
    for name, value in changes.items():
        setattr(adapter, name, value)
    try:
        if changes.get("base_model") is not None:
            check_base(adapter, changes["base_model"])
        other = taken_by(adapter.name, adapter.version)
        if other is not None and other.pk != adapter.pk:
            raise name_taken(other)
        try:
            with transaction.atomic():
                adapter.save(update_fields=[*changes, "updated_at"])
                send_on_commit(AdaptersChanged())
        except IntegrityError as error:  # somebody took the name between the look and the save
            raise AdapterRefused(ADAPTER_NAME_TAKEN, _name_taken_sentence(str(adapter))) from error
    except AdapterRefused:
        for name, value in before.items():
            setattr(adapter, name, value)
        raise
    return adapter


def checked(wording: Wording) -> dict[str, Any]:
    """The fields that are given, tidied. Raises AdapterRefused FIELD_INVALID with the field's name."""
    fields: dict[str, Any] = {
        name: _text(name, value) for name in _LIMITS if (value := getattr(wording, name)) is not None
    }
    if wording.default_strength is not None:
        strength = wording.default_strength
        if not math.isfinite(strength) or not 0 <= strength <= MAX_STRENGTH:
            raise _invalid("default_strength", f"The strength goes from 0 to {plain_number(MAX_STRENGTH)}.")
        fields["default_strength"] = float(strength)
    return fields


def check_base(adapter: Adapter, base: ModelConfig) -> None:
    """Raise AdapterRefused where the adapter's own shapes say that it was not made for that model."""
    kept = adapter.base_model
    adapter.base_model = base
    try:
        adapter.clean()
    except ValidationError as error:
        raise AdapterRefused(
            BASE_MODEL_IMPOSSIBLE, error.message_dict["base_model"][0], model_id=base.pk, field="base_model"
        ) from error
    finally:
        adapter.base_model = kept


def taken_by(name: str, version: str) -> Adapter | None:
    """The adapter that has this name and version, in whatever case."""
    return Adapter.objects.filter(name__iexact=name, version__iexact=version).first()


def name_taken(other: Adapter) -> AdapterRefused:
    """The refusal of a name and version that another adapter has."""
    return AdapterRefused(
        ADAPTER_NAME_TAKEN, _name_taken_sentence(str(other)), adapter_id=other.pk, field="version"
    )


def _name_taken_sentence(label: str) -> str:
    return f"There is another adapter called '{label}'. Give this one another version or name."


def _text(name: str, value: str) -> str:
    longest, has_lines = _LIMITS[name]
    lines = value.replace("\r\n", "\n").replace("\r", "\n").split("\n") if has_lines else [value]
    text = "\n".join(plain_line(line) for line in lines).strip()
    words = _WORDS.get(name, name)
    if len(text) > longest:
        raise _invalid(name, f"The {words} can have {longest} characters, and this has {len(text)}.")
    if not text and name in ("name", "version"):
        raise _invalid(name, f"Give the adapter a {words}.")
    return text


def _invalid(name: str, sentence: str) -> AdapterRefused:
    return AdapterRefused(FIELD_INVALID, sentence, field=name)
