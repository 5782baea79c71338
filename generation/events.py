"""The closed set of hints that travel over the channel layer: to the engine, and to the pages that are open.

A hint says that a row changed. It carries no truth: who receives it reads the row, so a lost one costs only time.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction

logger = logging.getLogger(__name__)

#: Channel name on which the EngineConsumer listens.
ENGINE_CHANNEL: Final = "generation"
#: Group of every open page: the state of the engine concerns all.
ENGINE_GROUP: Final = "studio.engine"


def owner_group(owner_id: int) -> str:
    """Group of the pages that this person has open."""
    return f"studio.owner.{owner_id}"


@dataclass(frozen=True)
class BoardChanged:
    """Cards came, went or changed status; or a take was saved."""

    type: ClassVar[str] = "board.changed"
    owner_id: int
    announcement: str = ""


@dataclass(frozen=True)
class JobProgressed:
    """One running job is further on."""

    type: ClassVar[str] = "job.progressed"
    owner_id: int
    job_id: int


@dataclass(frozen=True)
class TakesChanged:
    """A take was saved, renamed, marked, deleted or brought back."""

    type: ClassVar[str] = "takes.changed"
    owner_id: int


@dataclass(frozen=True)
class EngineChanged:
    """The engine's state changed: another model, loading, working, gone."""

    type: ClassVar[str] = "engine.changed"


@dataclass(frozen=True)
class JobSubmitted:
    """To the engine: there is work in the queue."""

    type: ClassVar[str] = "job.submitted"


@dataclass(frozen=True)
class JobCancelRequested:
    """To the engine: somebody wants this job to end."""

    type: ClassVar[str] = "job.cancel_requested"
    job_id: int


PageEvent = BoardChanged | JobProgressed | TakesChanged | EngineChanged
EngineEvent = JobSubmitted | JobCancelRequested


def as_message(event: PageEvent | EngineEvent) -> dict[str, Any]:
    """The event as a channel-layer message, a flat dict of plain values."""
    return {"type": event.type, **asdict(event)}


async def send(event: PageEvent | EngineEvent) -> None:
    """Send one hint now. A layer that is down or full is logged and no more: the rows already hold the truth."""
    layer = get_channel_layer()
    if layer is None:
        return
    try:
        if isinstance(event, JobSubmitted | JobCancelRequested):
            await layer.send(ENGINE_CHANNEL, as_message(event))
        elif isinstance(event, EngineChanged):
            await layer.group_send(ENGINE_GROUP, as_message(event))
        else:
            await layer.group_send(owner_group(event.owner_id), as_message(event))
    except Exception as problem:  # whatever a layer raises (full, connection lost), the verb itself has succeeded
        logger.warning("hint %s was not sent: %s", event.type, problem)


def send_on_commit(*events: PageEvent | EngineEvent) -> None:
    """Send hints once the rows they speak of can be read. For synchronous services."""

    def deliver() -> None:
        for event in events:
            async_to_sync(send)(event)

    transaction.on_commit(deliver)
