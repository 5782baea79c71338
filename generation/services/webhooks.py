"""Webhooks of people: make, test, turn on, delete; write what an ended job has to say into the outbox.

Sending is in `generation.services.deliveries`.
"""

from __future__ import annotations

import json
import secrets
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import IntegrityError, transaction
from django.utils import timezone

from gated_configs.deeds import tell_deed
from generation.models import DeliveryStatus, Job, Webhook, WebhookDelivery
from generation.webhooks.addresses import AddressRefused, Allowed, parse_target
from generation.webhooks.signing import new_secret

#: A prompt is told up to here: receivers expect messages of some kilobytes.
MAX_PROMPT_CHARACTERS: Final = 2000


class WebhookRefused(ValueError):
    """`str()` is the sentence for people, `code` is for scripts."""

    def __init__(self, sentence: str, code: str = "WEBHOOK_REFUSED") -> None:
        self.code = code
        super().__init__(sentence)


def allowed_addresses() -> Allowed:
    """What the operator allows although it is not public."""
    return Allowed.parse(settings.STUDIO.webhook_allowed_hosts)


def create_webhook(*, owner: Any, url: str) -> Webhook:
    """Make one with a secret of its own, which is told now and never again. Raises WebhookRefused."""
    limit = settings.STUDIO.max_webhooks
    if not limit:
        raise WebhookRefused("Webhooks are turned off in this studio.", "WEBHOOKS_OFF")
    url = url.strip()
    try:
        parse_target(url, allowed_addresses())
    except AddressRefused as refused:
        raise WebhookRefused(str(refused)) from refused
    try:
        with transaction.atomic():
            # As for quotas: the person's row is the lock, so that two at once cannot both be the last.
            get_user_model().objects.select_for_update().filter(pk=owner.pk).exists()
            if Webhook.objects.for_user(owner).count() >= limit:
                raise WebhookRefused(
                    f"You have {limit} webhook{'s' * (limit > 1)}, which is the limit. Delete one first.",
                    "TOO_MANY_WEBHOOKS",
                )
            webhook = Webhook.objects.create(owner=owner, url=url, secret=new_secret())
            tell_deed("webhook.created", webhook, by=owner)
    except IntegrityError:
        raise WebhookRefused("You have a webhook to this address already.") from None
    return webhook


def delete_webhook(webhook: Webhook) -> None:
    """Remove it, its log, and what waits for it."""
    with transaction.atomic():
        tell_deed("webhook.deleted", webhook)
        webhook.delete()


def enable_webhook(webhook: Webhook) -> None:
    """Turn on what was turned off after failing for long."""
    with transaction.atomic():
        if Webhook.objects.filter(pk=webhook.pk, disabled_at__isnull=False).update(
            disabled_at=None, disabled_reason="", failing_since=None
        ):
            tell_deed("webhook.enabled", webhook)
    webhook.refresh_from_db()


def disable_webhook(webhook: Webhook, reason: str) -> bool:
    """Turn it off; what waits for it is given up, and can be sent again one by one. False when it was off."""
    with transaction.atomic():
        if not Webhook.objects.filter(pk=webhook.pk, disabled_at__isnull=True).update(
            disabled_at=timezone.now(), disabled_reason=reason[:300]
        ):
            return False
        webhook.deliveries.filter(status=DeliveryStatus.PENDING).update(
            status=DeliveryStatus.FAILED, problem="The webhook was turned off."
        )
        tell_deed("webhook.disabled", webhook, detail=reason, way="webhook")
    return True


def send_test(webhook: Webhook) -> WebhookDelivery:
    """Write a message that says nothing but that it is one. Raises WebhookRefused for one that is off."""
    _require_on(webhook)
    return _write(webhook, "webhook.test", {"webhook_id": webhook.pk}, job=None)


def send_again(delivery: WebhookDelivery) -> WebhookDelivery:
    """Try a message anew, under the same id. Raises WebhookRefused while it waits, or where its webhook is off."""
    _require_on(delivery.webhook)
    ended = WebhookDelivery.objects.filter(pk=delivery.pk).exclude(status=DeliveryStatus.PENDING)
    if not ended.update(status=DeliveryStatus.PENDING, attempts=0, due_at=timezone.now(), problem=""):
        raise WebhookRefused("This message is still waiting to be sent.", "DELIVERY_WAITING")
    delivery.refresh_from_db()
    return delivery


def _require_on(webhook: Webhook) -> None:
    if webhook.disabled_at is not None:
        raise WebhookRefused("This webhook is off. Turn it on first.", "WEBHOOK_OFF")


# What jobs have to say.


def write_job_end(job: Job) -> int:
    """Write what is to be sent of an ended job. In the transaction that ends it. Returns how many messages."""
    if not settings.STUDIO.max_webhooks:
        return 0
    webhooks = list(Webhook.objects.for_user(job.owner_id).enabled())
    if not webhooks:
        return 0
    facts = facts_of(job)
    for webhook in webhooks:
        _write(webhook, f"job.{job.status}", facts, job=job)
    return len(webhooks)


def facts_of(job: Job) -> dict[str, Any]:
    """What a message says of a job: its end, and where its takes are."""
    return {
        "id": job.pk,
        "status": job.status,
        "model": job.model_id,
        "prompt": job.prompt[:MAX_PROMPT_CHARACTERS],
        "duration_seconds": job.duration_seconds,
        "seed": job.seed,
        "variations": job.variations,
        "error": job.error_message or None,
        "error_code": job.error_code or None,
        "created_at": job.created_at.isoformat(),
        "finished_at": job.finished_at.isoformat() if job.finished_at else None,
        "url": f"/api/generations/{job.pk}",
        "takes": [
            {
                "id": take.pk,
                "seed": take.seed,
                "duration_seconds": take.duration_seconds,
                "is_partial": take.is_partial,
                "sha256": take.sha256,
                "audio_url": f"/api/takes/{take.pk}/audio",
            }
            for take in job.takes.order_by("variation").defer("recipe", "peaks")
        ],
    }


def _write(webhook: Webhook, event: str, facts: dict[str, Any], *, job: Job | None) -> WebhookDelivery:
    now = timezone.now()
    message = {"type": event, "timestamp": now.isoformat(), "data": facts}
    return WebhookDelivery.objects.create(
        webhook=webhook,
        message_id=f"msg_{secrets.token_hex(16)}",
        event=event,
        job=job,
        body=json.dumps(message, separators=(",", ":")),
        created_at=now,
        due_at=now,
    )
