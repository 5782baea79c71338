"""Hints over the channel layer: how they travel, and those that speak of models and the engine.

A hint says that a row changed. It carries no truth: who receives it reads the row, so a lost one costs only time.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction

logger = logging.getLogger(__name__)

#: Channel name of the EngineConsumer, as `runworker generation` knows it.
ENGINE_CHANNEL: Final = "generation"
#: Group of every engine host: whoever is free takes what there is.
HOSTS_GROUP: Final = "studio.hosts"
#: Hints that are not sent within so many seconds are given up: whoever waits for a page waits for them.
SEND_BOUND: Final = 2.0
#: Group of every open page: the engine's state and the active model concern all.
ENGINE_GROUP: Final = "studio.engine"


@dataclass(frozen=True)
class Hint:
    """One message. Subclasses name their type, in the past tense."""

    type: ClassVar[str]

    @property
    def group(self) -> str:
        """Group it goes to: of pages, or of engine hosts."""
        return ENGINE_GROUP

    def as_message(self) -> dict[str, Any]:
        """The hint as a channel-layer message, a flat dict of plain values."""
        return {"type": self.type, **asdict(self)}


@dataclass(frozen=True)
class EngineChanged(Hint):
    """The engine's state changed: another model, loading, working, gone."""

    type: ClassVar[str] = "engine.changed"


@dataclass(frozen=True)
class SwitchChanged(Hint):
    """A switch began, went on or ended. `finished` also means that the active model may be another one."""

    type: ClassVar[str] = "switch.changed"
    finished: bool = False


@dataclass(frozen=True)
class SwitchRequested(Hint):
    """To the engines: somebody wants another model, or no longer."""

    type: ClassVar[str] = "switch.requested"

    @property
    def group(self) -> str:
        """The engine hosts."""
        return HOSTS_GROUP


async def send(*hints: Hint) -> None:
    """Send hints now. A layer that is down or full is logged and no more: the rows already hold the truth."""
    layer = get_channel_layer()
    if layer is None:
        return
    try:
        async with asyncio.timeout(SEND_BOUND):
            for hint in hints:
                await layer.group_send(hint.group, hint.as_message())
    except Exception as problem:  # noqa: BLE001 - whatever a layer raises, the verb has succeeded
        logger.warning("hints (%s) were not sent: %r", ", ".join(hint.type for hint in hints), problem)


def send_on_commit(*hints: Hint) -> None:
    """Send hints once the rows they speak of can be read. For synchronous services."""
    if hints:
        transaction.on_commit(lambda: async_to_sync(send)(*hints))
