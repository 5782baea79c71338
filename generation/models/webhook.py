"""Addresses that hear of ended jobs, and what is to be sent to each: an outbox, written with the job's own end."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from generation.models.job import Job


class WebhookQuerySet(models.QuerySet["Webhook"]):
    """Webhooks and those that work."""

    def for_user(self, user: Any) -> WebhookQuerySet:
        """Webhooks of this person."""
        return self.filter(owner=user)

    def enabled(self) -> WebhookQuerySet:
        """Those that are sent to: on, and of a person who may log in."""
        return self.filter(disabled_at__isnull=True, owner__is_active=True)


class Webhook(models.Model):
    """One address of one person. The secret must be readable: every message is signed with it."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="webhooks")
    url = models.CharField(max_length=500)
    secret = models.CharField(max_length=100, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    # Of the first attempt that failed since one succeeded.
    failing_since = models.DateTimeField(null=True, editable=False)
    disabled_at = models.DateTimeField(null=True, editable=False)
    disabled_reason = models.CharField(max_length=300, blank=True, editable=False)

    objects = WebhookQuerySet.as_manager()

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["owner", "url"], name="one_webhook_per_address")]

    def __str__(self) -> str:
        # Not the whole address: its path is somebody's secret at many services.
        return f"webhook {self.pk} to {self.host}"

    @property
    def host(self) -> str:
        """Where it leads, as far as others may know."""
        return (urlsplit(self.url).hostname or "")[:80]


class DeliveryStatus(models.TextChoices):
    """Where a delivery stands."""

    PENDING = "pending", "Waiting"
    DELIVERED = "delivered", "Delivered"
    FAILED = "failed", "Given up"


class WebhookDelivery(models.Model):
    """One message to one address. Id and body are the same at every attempt; `due_at` is also the sender's lease."""

    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE, related_name="deliveries")
    message_id = models.CharField(max_length=40, unique=True, editable=False)
    event = models.CharField(max_length=40, editable=False)
    job = models.ForeignKey(Job, null=True, on_delete=models.SET_NULL, related_name="deliveries")
    body = models.TextField(editable=False)
    status = models.CharField(
        max_length=10, choices=DeliveryStatus.choices, default=DeliveryStatus.PENDING, editable=False
    )
    attempts = models.PositiveSmallIntegerField(default=0, editable=False)
    due_at = models.DateTimeField(default=timezone.now, editable=False)
    # Of the last attempt: when, what the receiver answered, and what went wrong.
    attempted_at = models.DateTimeField(null=True, editable=False)
    answer_status = models.PositiveSmallIntegerField(null=True, editable=False)
    problem = models.CharField(max_length=300, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "webhook deliveries"
        indexes = [
            models.Index(fields=["due_at"], name="delivery_due", condition=Q(status="pending")),
            models.Index(fields=["webhook", "-id"], name="delivery_log"),
            models.Index(fields=["created_at"], name="delivery_age"),
        ]
        constraints = [
            # A job ends once, and is told once: tries again are attempts of the same delivery.
            models.UniqueConstraint(fields=["webhook", "job"], name="one_delivery_per_job"),
            models.CheckConstraint(
                condition=Q(status__in=DeliveryStatus.values), name="delivery_status_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.event} {self.message_id}"
