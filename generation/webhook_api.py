"""API of webhooks: one's own, and what was sent to each. The secret is in one answer alone."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import Http404, HttpRequest
from ninja import NinjaAPI, Router, Schema, Status
from ninja.params.functions import Query
from pydantic import ConfigDict, Field

from generation.models import Webhook, WebhookDelivery
from generation.services import webhooks
from generation.services.webhooks import WebhookRefused
from registry.api_schemas import ErrorOut

router = Router(tags=["webhooks"])
MAX_ID = 2**63 - 1
#: Deliveries in one answer.
MOST = 100


class WebhookIn(Schema):
    """A webhook to make."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(description="Address that hears of each job of yours that ends.", max_length=2000)


class WebhookOut(Schema):
    """A webhook."""

    id: int
    url: str
    is_enabled: bool
    disabled_reason: str | None
    failing_since: datetime | None
    created_at: datetime

    @classmethod
    def of(cls, webhook: Webhook) -> dict[str, Any]:
        """The row in this shape."""
        return {
            "id": webhook.pk,
            "url": webhook.url,
            "is_enabled": webhook.disabled_at is None,
            "disabled_reason": webhook.disabled_reason or None,
            "failing_since": webhook.failing_since,
            "created_at": webhook.created_at,
        }


class NewWebhookOut(WebhookOut):
    """A webhook that was just made, with its secret: it cannot be told again."""

    secret: str


class WebhooksOut(Schema):
    """All webhooks of a person."""

    webhooks: list[WebhookOut]


class DeliveryOut(Schema):
    """One message to a webhook, and what came of it."""

    id: int
    message_id: str = Field(description="Sent as `webhook-id`, the same at every attempt.")
    type: str = Field(description="job.finished, job.failed, job.cancelled or webhook.test.")
    job_id: int | None
    status: str = Field(description="pending, delivered or failed.")
    attempts: int
    attempted_at: datetime | None
    next_attempt_at: datetime | None
    answer_status: int | None = Field(description="Status that the receiver answered with last.")
    problem: str | None
    created_at: datetime

    @classmethod
    def of(cls, delivery: WebhookDelivery) -> dict[str, Any]:
        """The row in this shape."""
        return {
            "id": delivery.pk,
            "message_id": delivery.message_id,
            "type": delivery.event,
            "job_id": delivery.job_id,
            "status": delivery.status,
            "attempts": delivery.attempts,
            "attempted_at": delivery.attempted_at,
            "next_attempt_at": delivery.due_at if delivery.status == "pending" else None,
            "answer_status": delivery.answer_status,
            "problem": delivery.problem or None,
            "created_at": delivery.created_at,
        }


class DeliveriesOut(Schema):
    """The last messages, newest first."""

    deliveries: list[DeliveryOut]


def register_refusals(api: NinjaAPI, refuse: Any) -> None:
    """Answer refusals of this router in the API's shape."""

    @api.exception_handler(WebhookRefused)
    def _refused(request: HttpRequest, refused: WebhookRefused) -> Any:
        return refuse(request, 400 if refused.code == "WEBHOOK_REFUSED" else 409, str(refused), refused.code)


@router.get("", response=WebhooksOut, operation_id="list_webhooks")
def webhooks_list(request: HttpRequest) -> Any:
    """Your webhooks, without their secrets."""
    return {"webhooks": [WebhookOut.of(row) for row in Webhook.objects.for_user(request.user)]}


@router.post(
    "",
    response={201: NewWebhookOut, 400: ErrorOut, 409: ErrorOut, 429: ErrorOut},
    operation_id="create_webhook",
)
def webhook_create(request: HttpRequest, wanted: WebhookIn) -> Any:
    """Make a webhook. Keep the `secret` of this answer: messages are signed with it."""
    webhook = webhooks.create_webhook(owner=request.user, url=wanted.url)
    return Status(201, {**WebhookOut.of(webhook), "secret": webhook.secret})


@router.delete(
    "/{int:webhook_id}", response={204: None, 400: ErrorOut, 404: ErrorOut}, operation_id="delete_webhook"
)
def webhook_delete(request: HttpRequest, webhook_id: int) -> Any:
    """Remove it, its log, and what waits for it."""
    webhooks.delete_webhook(_webhook_for_user(request, webhook_id))
    return Status(204, None)


@router.post(
    "/{int:webhook_id}/enable",
    response={200: WebhookOut, 400: ErrorOut, 404: ErrorOut},
    operation_id="enable_webhook",
)
def webhook_enable(request: HttpRequest, webhook_id: int) -> Any:
    """Turn on what was turned off after failing for days."""
    webhook = _webhook_for_user(request, webhook_id)
    webhooks.enable_webhook(webhook)
    return WebhookOut.of(webhook)


@router.post(
    "/{int:webhook_id}/test",
    response={202: DeliveryOut, 400: ErrorOut, 404: ErrorOut, 409: ErrorOut, 429: ErrorOut},
    operation_id="test_webhook",
)
def webhook_test(request: HttpRequest, webhook_id: int) -> Any:
    """Send a message of the type `webhook.test`."""
    return Status(202, DeliveryOut.of(webhooks.send_test(_webhook_for_user(request, webhook_id))))


@router.get(
    "/{int:webhook_id}/deliveries",
    response={200: DeliveriesOut, 400: ErrorOut, 404: ErrorOut},
    operation_id="list_deliveries",
)
def deliveries_list(request: HttpRequest, webhook_id: int, limit: int = Query(20, ge=1, le=MOST)) -> Any:
    """The last messages to a webhook and what came of them. They are kept for two weeks."""
    rows = _webhook_for_user(request, webhook_id).deliveries.defer("body")[:limit]
    return {"deliveries": [DeliveryOut.of(row) for row in rows]}


@router.post(
    "/{int:webhook_id}/deliveries/{int:delivery_id}/resend",
    response={202: DeliveryOut, 400: ErrorOut, 404: ErrorOut, 409: ErrorOut, 429: ErrorOut},
    operation_id="resend_delivery",
)
def delivery_resend(request: HttpRequest, webhook_id: int, delivery_id: int) -> Any:
    """Send a message again, under the same `webhook-id`."""
    webhook = _webhook_for_user(request, webhook_id)
    delivery = (
        webhook.deliveries.select_related("webhook").filter(pk=delivery_id).first()
        if delivery_id <= MAX_ID
        else None
    )
    if delivery is None:
        raise Http404
    return Status(202, DeliveryOut.of(webhooks.send_again(delivery)))


def _webhook_for_user(request: HttpRequest, webhook_id: int) -> Webhook:
    webhook = (
        Webhook.objects.for_user(request.user).filter(pk=webhook_id).first() if webhook_id <= MAX_ID else None
    )
    if webhook is None:
        raise Http404
    return webhook
