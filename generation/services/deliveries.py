"""The outbox's other side: whose message is next, who sends it, and what becomes of it.

A claim is a lease: it moves the time at which the message is due, so one whose sender died is due again. Each attempt
has a number, and only the last one's outcome counts.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from django.conf import settings
from django.core.mail import send_mail
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from generation.models import DeliveryStatus, Webhook, WebhookDelivery
from generation.services.webhooks import allowed_addresses, disable_webhook
from generation.version import VERSION
from generation.webhooks.signing import signed_headers

logger = logging.getLogger(__name__)

#: How long a sender may take, name servers included, before another one tries.
LEASE: Final = timedelta(minutes=3)
#: Waits between attempts, in seconds: soon at first, then less and less often, over three days.
BACKOFF: Final = (5, 60, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
#: A time further ahead than any wait was written by a clock that was ahead.
FURTHEST: Final = timedelta(seconds=1.2 * BACKOFF[-1])
#: An address that heard nothing for so long is turned off.
DISABLE_AFTER: Final = timedelta(days=3)
#: But only after so many attempts: a studio that was off for days is no fault of the receiver.
DISABLE_ATTEMPTS: Final = 5
GONE: Final = 410


@dataclass(frozen=True)
class Outcome:
    """What an attempt came to: the receiver's status, or a problem in words, or both."""

    answer_status: int | None = None
    problem: str = ""

    @property
    def is_delivered(self) -> bool:
        """Whether the receiver has it."""
        return self.answer_status is not None and 200 <= self.answer_status < 300


def claim_delivery(*, busy_owners: Collection[int] = ()) -> WebhookDelivery | None:
    """A message that is due, now ours to send; None when there is none but of people in `busy_owners`.

    One person's slow receivers wait for each other, and nobody else waits for them.
    """
    if not settings.STUDIO.max_webhooks:
        return None
    while True:
        now = timezone.now()
        due = Q(due_at__lte=now) | Q(due_at__gt=now + FURTHEST)
        waiting = WebhookDelivery.objects.filter(due, status=DeliveryStatus.PENDING)
        working = Q(webhook__disabled_at__isnull=True, webhook__owner__is_active=True)
        delivery = (
            waiting.filter(working)
            .exclude(webhook__owner__in=busy_owners)
            .select_related("webhook__owner")
            .order_by("due_at", "id")
            .first()
        )
        if delivery is None:
            return None
        claimed = WebhookDelivery.objects.filter(
            pk=delivery.pk, status=DeliveryStatus.PENDING, attempts=delivery.attempts, due_at=delivery.due_at
        ).update(attempts=F("attempts") + 1, due_at=now + LEASE, attempted_at=now)
        if claimed:
            delivery.attempts += 1
            return delivery


def send(delivery: WebhookDelivery) -> Outcome:
    """Send it once. Touches no row, so that no connection to the database waits for a receiver."""
    # Not before the first message: most studios have no webhooks.
    from generation.webhooks.sending import AddressRefused, SendFailed, post

    body = delivery.body.encode()
    now = timezone.now()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"MusicGenStudio/{VERSION}",
        **signed_headers(
            delivery.webhook.secret,
            message_id=delivery.message_id,
            timestamp=int(now.timestamp()),
            body=body,
        ),
    }
    try:
        status = post(delivery.webhook.url, body, headers, allowed=allowed_addresses())
    except (AddressRefused, SendFailed) as problem:
        return Outcome(problem=str(problem))
    if 300 <= status < 400:
        sentence = "It answers with a redirect, which is not followed. Use the address that it leads to."
        return Outcome(status, sentence)
    return Outcome(status) if 200 <= status < 300 else Outcome(status, f"It answered with status {status}.")


def settle(delivery: WebhookDelivery, outcome: Outcome) -> bool:
    """Write down what an attempt came to, and what follows. False when a later attempt has begun meanwhile."""
    now = timezone.now()
    wait = None
    if outcome.is_delivered:
        status = DeliveryStatus.DELIVERED
    elif delivery.attempts > len(BACKOFF):
        status = DeliveryStatus.FAILED
    else:
        status = DeliveryStatus.PENDING
        wait = BACKOFF[delivery.attempts - 1]
    with transaction.atomic():
        ours = WebhookDelivery.objects.filter(
            pk=delivery.pk, status=DeliveryStatus.PENDING, attempts=delivery.attempts
        )
        if not ours.update(
            status=status,
            answer_status=outcome.answer_status,
            problem=outcome.problem[:300],
            due_at=now + timedelta(seconds=_spread(wait)) if wait else now,
        ):
            return False
        webhook = Webhook.objects.filter(pk=delivery.webhook_id)
        if outcome.is_delivered:
            webhook.filter(failing_since__isnull=False).update(failing_since=None)
        else:
            webhook.filter(failing_since__isnull=True).update(failing_since=now)
    if not outcome.is_delivered:
        _disable_if_lasting(delivery, outcome)
    return True


def _spread(seconds: int) -> float:
    """About that long: what failed together does not come again together."""
    return seconds * (0.9 + secrets.randbelow(2001) / 10_000)


def _disable_if_lasting(delivery: WebhookDelivery, outcome: Outcome) -> None:
    webhook = Webhook.objects.select_related("owner").get(pk=delivery.webhook_id)
    since = webhook.failing_since
    if outcome.answer_status == GONE:
        reason = "Its receiver answered that it is gone for good (410)."
    elif delivery.attempts >= DISABLE_ATTEMPTS and since and timezone.now() - since >= DISABLE_AFTER:
        reason = f"Nothing could be delivered for {DISABLE_AFTER.days} days. Last: {outcome.problem}"
    else:
        return
    if disable_webhook(webhook, reason):
        logger.warning("%s was turned off: %s", webhook, reason)
        _tell_owner(webhook, reason)


def _tell_owner(webhook: Webhook, reason: str) -> None:
    """By mail, where the studio has a mail server and its owner an address; the page says it in any case."""
    if not settings.STUDIO.email_url or not webhook.owner.email:
        return
    text = (
        f"Your webhook to {webhook.host} was turned off.\n\n{reason}\n\n"
        "Jobs that end from now on are not told to it. Turn it on again on the page Webhooks of the studio.\n"
    )
    try:
        send_mail("A webhook was turned off", text, None, [webhook.owner.email])
    except OSError:
        logger.exception("the mail about %s could not be sent", webhook)
