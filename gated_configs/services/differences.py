"""How two configs differ, field by field, in a bounded number of lines of a bounded length. Knows no rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice, zip_longest
from typing import Any, Final

MAX_DIFFERENCES: Final = 200
MAX_VALUE_CHARACTERS: Final = 200
#: Deeper values are compared whole.
_MAX_DEPTH: Final = 32
_ABSENT: Final = object()


class Change(StrEnum):
    """What became of a field."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True)
class Difference:
    """One field, by its path such as "decoder.layers[3]"; its values as JSON, empty where there is none."""

    path: str
    change: Change
    before: str = ""
    after: str = ""

    def __str__(self) -> str:
        if self.change is Change.ADDED:
            return f"{self.path}: {self.after} added"
        if self.change is Change.REMOVED:
            return f"{self.path}: {self.before} removed"
        return f"{self.path}: {self.before} → {self.after}"


@dataclass(frozen=True)
class Differences:
    """The first differences in the order of the fields' names; `is_complete` unless there are more."""

    lines: tuple[Difference, ...]
    is_complete: bool = True

    def __bool__(self) -> bool:
        return bool(self.lines)


def differences(before: dict[str, Any], after: dict[str, Any]) -> Differences:
    """What changed from one config to another."""
    found = tuple(islice(_walk(before, after, "", 0), MAX_DIFFERENCES + 1))
    return Differences(found[:MAX_DIFFERENCES], is_complete=len(found) <= MAX_DIFFERENCES)


def _walk(before: Any, after: Any, path: str, depth: int) -> Iterator[Difference]:
    if depth < _MAX_DEPTH and isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            name = f"{path}.{key}" if path else str(key)
            yield from _walk(before.get(key, _ABSENT), after.get(key, _ABSENT), name, depth + 1)
    elif depth < _MAX_DEPTH and isinstance(before, list) and isinstance(after, list):
        for position, (old, new) in enumerate(zip_longest(before, after, fillvalue=_ABSENT)):
            yield from _walk(old, new, f"{path}[{position}]", depth + 1)
    elif before is _ABSENT:
        yield Difference(_shortened(path), Change.ADDED, after=_text(after))
    elif after is _ABSENT:
        yield Difference(_shortened(path), Change.REMOVED, before=_text(before))
    else:
        # As JSON: for Python 1, 1.0 and true are equal, and NaN differs from itself.
        old, new = _json(before), _json(after)
        if old != new:
            yield Difference(_shortened(path), Change.CHANGED, _shortened(old), _shortened(new))


def _text(value: Any) -> str:
    return _shortened(_json(value))


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[: MAX_VALUE_CHARACTERS - 1]}…"


def readable_json(config: dict[str, Any]) -> str:
    """A config as people read and edit it."""
    return json.dumps(config, indent=2)


def json_excerpt(config: dict[str, Any], *, max_characters: int = 200_000) -> str:
    """A config to look at: what is longer is cut off with a line that says so."""
    text = readable_json(config)
    if len(text) <= max_characters:
        return text
    return f"{text[:max_characters]}\n… and {len(text) - max_characters:,} characters more"
