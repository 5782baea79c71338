"""Hints that speak of adapters, to every open page. How hints travel: registry.events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from registry.events import Hint


@dataclass(frozen=True)
class AdaptersChanged(Hint):
    """An adapter was imported, edited, proven, found broken or deleted."""

    type: ClassVar[str] = "adapters.changed"
