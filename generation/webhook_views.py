"""The page of webhooks: one's own, and what was sent to each."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from generation.models import Webhook, WebhookDelivery
from generation.services import webhooks
from generation.services.webhooks import WebhookRefused

#: Deliveries shown of each webhook.
SHOWN = 10


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def webhooks_page(request: HttpRequest) -> HttpResponse:
    """The list and a form. POST makes one, whose secret is in this answer and nowhere else."""
    if request.method != "POST":
        return _page(request)
    url = request.POST.get("url", "")
    try:
        webhook = webhooks.create_webhook(owner=request.user, url=url)
    except WebhookRefused as refused:
        return _page(request, url=url[:2000], error=str(refused), status=400)
    return _page(request, made=webhook)


@require_POST
def webhook_delete(request: HttpRequest, pk: int) -> HttpResponse:
    """Remove a webhook and what waits for it."""
    webhook = _webhook_for_user(request, pk)
    webhooks.delete_webhook(webhook)
    messages.info(request, f"Deleted the webhook to {webhook.host}.")
    return redirect("generation:webhooks")


@require_POST
def webhook_enable(request: HttpRequest, pk: int) -> HttpResponse:
    """Turn one on that was turned off."""
    webhooks.enable_webhook(_webhook_for_user(request, pk))
    return redirect("generation:webhooks")


@require_POST
def webhook_test(request: HttpRequest, pk: int) -> HttpResponse:
    """Send a message that says nothing but that it is one."""
    try:
        webhooks.send_test(_webhook_for_user(request, pk))
        messages.info(request, "A test is on its way. Read again in some seconds to see what came of it.")
    except WebhookRefused as refused:
        messages.error(request, str(refused))
    return redirect("generation:webhooks")


@require_POST
def delivery_resend(request: HttpRequest, pk: int, delivery_pk: int) -> HttpResponse:
    """Send a message again."""
    webhook = _webhook_for_user(request, pk)
    delivery = get_object_or_404(
        WebhookDelivery.objects.select_related("webhook"), webhook=webhook, pk=delivery_pk
    )
    try:
        webhooks.send_again(delivery)
    except WebhookRefused as refused:
        messages.error(request, str(refused))
    return redirect("generation:webhooks")


def _webhook_for_user(request: HttpRequest, pk: int) -> Webhook:
    return get_object_or_404(Webhook.objects.for_user(request.user), pk=pk)


def _page(
    request: HttpRequest, *, made: Webhook | None = None, url: str = "", error: str = "", status: int = 200
) -> HttpResponse:
    rows = [
        {"webhook": webhook, "deliveries": list(webhook.deliveries.defer("body")[:SHOWN])}
        for webhook in Webhook.objects.for_user(request.user)
    ]
    context: dict[str, Any] = {
        "rows": rows,
        "made": made,
        "url": url,
        "error": error,
        "max_webhooks": settings.STUDIO.max_webhooks,
        "has_room": len(rows) < settings.STUDIO.max_webhooks,
    }
    return render(request, "generation/webhooks.html", context, status=status)
