"""Adapters as people type them in a command: by number, by name, or by name and version, with a strength.

A name that several versions share is refused with what to write instead.
"""

from __future__ import annotations

import re
from typing import Final

from adapters.models import Adapter
from generation.services.job_adapters import AdapterWish
from generation.services.refusals import GenerationRefused, Refusal

#: Names listed in a refusal.
_SHOWN: Final = 8


def wish_of(text: str) -> AdapterWish:
    """ "Jazz", "Jazz v1.0:0.8" or "12:0.8" as the adapter that it means. Raises GenerationRefused.

    A whole name counts before a strength is split off: names may hold colons.
    """
    wanted = text.strip()
    if (adapter_id := _find(wanted)) is not None:
        return AdapterWish(adapter_id)
    name, colon, strength = wanted.rpartition(":")
    if colon and re.fullmatch(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)", strength.strip(), re.ASCII):
        if (adapter_id := _find(name.strip())) is not None:
            return AdapterWish(adapter_id, float(strength.strip().replace(",", ".")))
        wanted = name.strip()
    known = [str(adapter) for adapter in Adapter.objects.sound()[: _SHOWN + 1]]
    there = f"There are: {', '.join(known[:_SHOWN])}{' and more' if len(known) > _SHOWN else ''}."
    raise _refused(
        f"There is no adapter '{wanted[:120]}'. {there if known else 'Import one with `manage.py import_adapter`.'}",
        "ADAPTER_NOT_FOUND",
    )


def _find(wanted: str) -> int | None:
    """The number of the adapter of that number, label or name. Raises GenerationRefused when several share the name."""
    if re.fullmatch(r"\d{1,18}", wanted, re.ASCII) and Adapter.objects.filter(pk=int(wanted)).exists():
        return int(wanted)
    folded = wanted.casefold()
    adapters = list(Adapter.objects.only("name", "version"))
    found = [adapter for adapter in adapters if str(adapter).casefold() == folded] or [
        adapter for adapter in adapters if adapter.name.casefold() == folded
    ]
    if len(found) > 1:
        labels = ", ".join(f"'{adapter}'" for adapter in found[:_SHOWN])
        raise _refused(
            f"Several adapters are called '{wanted}'. Say which: {labels}.", "ADAPTER_NAME_UNCLEAR"
        )
    return found[0].pk if found else None


def _refused(sentence: str, code: str) -> GenerationRefused:
    return GenerationRefused({"adapters": Refusal(sentence, code)})
