"""The adapters of the studio's form: those that work with the active model, then the locked ones, each with its reason.

Serves the page, a refused form and a push. What was chosen in an open page only the page knows; a form sends it along.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from adapters.models import Adapter
from adapters.services.choices import usable_for
from gated_configs.wording import plain_number
from generation.models import Take, adapter_label
from registry.models import ModelConfig

#: Up to here the list is short enough to be shown as it is; beyond, it folds to what is chosen.
FOLD_BEYOND: Final = 6
#: Characters of a strength that a refused form gives back.
MAX_STRENGTH_CHARACTERS: Final = 20


@dataclass(frozen=True)
class ChoiceRow:
    """One adapter to choose. `words` is what the filter field looks in, in lower case; `strength` as typed."""

    adapter: Adapter
    label: str
    words: str
    is_usable: bool
    reason: str
    unlock_model: ModelConfig | None
    is_chosen: bool
    strength: str


@dataclass(frozen=True)
class AdapterChoices:
    """The group of the form."""

    model_name: str
    usable: list[ChoiceRow] = field(default_factory=list)
    locked: list[ChoiceRow] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """How many adapters there are."""
        return len(self.usable) + len(self.locked)

    @property
    def chosen_count(self) -> int:
        """How many of them are chosen."""
        return sum(row.is_chosen for row in (*self.usable, *self.locked))

    @property
    def is_foldable(self) -> bool:
        """Whether the list is too long to be shown whole."""
        return self.total > FOLD_BEYOND


def adapter_choices(
    chosen: Mapping[int, str] | None = None, *, errors: Iterable[str] = (), missing: Iterable[str] = ()
) -> AdapterChoices:
    """Every adapter, grouped for the active model. `chosen` is by adapter id: its strength as typed, "" for the usual.

    `missing` names adapters that a take was made with and that are gone.
    """
    wanted = chosen or {}
    model = ModelConfig.objects.filter(is_active=True).first()
    if model is None:
        adapters = Adapter.objects.select_related("base_model")
        rows = [_row(adapter, wanted, reason="No model is active") for adapter in adapters]
    else:
        rows = [
            _row(
                choice.adapter,
                wanted,
                reason="" if choice.is_usable else choice.reason,
                unlock_model=choice.unlock_model,
            )
            for choice in usable_for(model)
        ]
    return AdapterChoices(
        model_name=model.display_name if model is not None else "",
        usable=[row for row in rows if row.is_usable],
        locked=[row for row in rows if not row.is_usable],
        errors=list(errors),
        missing=list(missing),
    )


def _row(
    adapter: Adapter, chosen: Mapping[int, str], *, reason: str, unlock_model: ModelConfig | None = None
) -> ChoiceRow:
    """A reason makes it a locked one."""
    label = str(adapter)
    return ChoiceRow(
        adapter=adapter,
        label=label,
        words=" ".join(f"{label} {adapter.trigger_words} {adapter.base_model_name}".lower().split()),
        is_usable=not reason,
        reason=reason,
        unlock_model=unlock_model,
        is_chosen=adapter.pk in chosen,
        strength=chosen.get(adapter.pk) or plain_number(adapter.default_strength),
    )


def chosen_in(values: Any) -> dict[int, str]:
    """What a sent form chose: adapter id to strength as typed. What is no id is left out; the submission refuses it."""
    found: dict[int, str] = {}
    for text in values.getlist("adapter"):
        if re.fullmatch(r"[0-9]{1,18}", text):
            found[int(text)] = values.get(f"strength-{text}", "")[:MAX_STRENGTH_CHARACTERS]
    return found


def chosen_of_take(take: Take) -> tuple[dict[int, str], list[str]]:
    """The adapters that a take was made with, known by their content; and those of them that are gone."""
    used: list[dict[str, Any]] = take.recipe.get("adapters") or []
    rows = Adapter.objects.filter(sha256__in=[entry["sha256"] for entry in used])
    # The same content may be here under two names: then its own one counts.
    by_content = {row.sha256: row.pk for row in rows}
    own = {row.pk for row in rows}
    chosen: dict[int, str] = {}
    missing = []
    for entry in used:
        pk = entry["id"] if entry.get("id") in own else by_content.get(entry["sha256"])
        if pk is None:
            missing.append(adapter_label(entry["name"], entry["version"]))
        else:
            chosen[pk] = plain_number(float(entry["strength"]))
    return chosen, missing


def choices_context(user: Any, choices: AdapterChoices) -> dict[str, Any]:
    """What the partial needs, for the page and for a push to it."""
    return {"adapters": choices, "can_switch": bool(user.is_staff), "can_import": bool(user.is_staff)}
