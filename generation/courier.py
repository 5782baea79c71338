"""Sends what is due to webhooks: a few at a time, one a person, each in a thread of its own.

Any number of processes may: a message is claimed by its row.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from functools import partial
from typing import Final

from generation.database import in_database
from generation.models import WebhookDelivery
from generation.services.deliveries import Outcome, claim_delivery, send, settle

logger = logging.getLogger(__name__)

#: The outbox is looked at this often, in seconds.
POLL: Final = 2.0
#: So many messages are on their way at a time.
MOST: Final = 8


class Courier:
    """`send_due()` begins all that can begin now; `finish()` waits for what is on its way."""

    def __init__(self) -> None:
        self._under_way: dict[int, asyncio.Task[None]] = {}  # by owner
        self.again = asyncio.Event()

    async def send_due(self) -> None:
        """Begin with each message that is due, as far as there is room."""
        self.again.clear()
        while len(self._under_way) < MOST:
            delivery = await in_database(claim_delivery)(busy_owners=list(self._under_way))
            if delivery is None:
                return
            owner = delivery.webhook.owner_id
            task = asyncio.create_task(self._deliver(delivery))
            self._under_way[owner] = task
            task.add_done_callback(partial(self._ended, owner))

    def _ended(self, owner: int, task: asyncio.Task[None]) -> None:
        self._under_way.pop(owner, None)
        self.again.set()  # there may be more for them

    async def finish(self, seconds: float) -> None:
        """Wait so long; what has not ended by then is sent again by whoever looks next."""
        if self._under_way:
            await asyncio.wait(list(self._under_way.values()), timeout=seconds)
        for task in self._under_way.values():
            task.cancel()

    async def _deliver(self, delivery: WebhookDelivery) -> None:
        try:
            outcome = await _in_thread(delivery)
            await in_database(settle)(delivery, outcome)
        except Exception:
            # Its lease runs out, and it is tried again.
            logger.exception("%s of %s could not be sent", delivery, delivery.webhook)


async def _in_thread(delivery: WebhookDelivery) -> Outcome:
    """Send it in a thread that nobody waits for at the end: the loop's own ones are few and serve pages."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Outcome] = loop.create_future()

    def work() -> None:
        try:
            result: Outcome | Exception = send(delivery)
        except Exception as problem:  # noqa: BLE001 - told to who waits
            result = problem
        with contextlib.suppress(RuntimeError):  # the loop is closed: the lease runs out
            loop.call_soon_threadsafe(tell, result)

    def tell(result: Outcome | Exception) -> None:
        if done.cancelled():
            return
        if isinstance(result, Exception):
            done.set_exception(result)
        else:
            done.set_result(result)

    threading.Thread(target=work, name="webhook", daemon=True).start()
    return await done
