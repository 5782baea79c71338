"""Webhooks from the end of a job to a receiver: once for each end, signed, tried again, and off when it lasts."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core import mail
from django.db import transaction
from django.test import Client
from django.utils import timezone

from generation import courier, housekeeper
from generation.housekeeper import Housekeeper
from generation.models import DeliveryStatus, Job, JobStatus, Webhook, WebhookDelivery
from generation.retention.rules import Look
from generation.retention.run import RULES_BY_NAME, run_rule
from generation.services import deliveries, jobs, webhooks
from generation.services.deliveries import BACKOFF, LEASE, Outcome, claim_delivery, send, settle
from generation.services.webhooks import WebhookRefused, create_webhook
from musicgen_site.models import AuditEntry
from tests.generation.music import HOST, make_job, make_running_job, make_take, save
from tests.generation.receiver import Receiver, receiving
from tests.site.people import script

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]

DELIVERED = Outcome(answer_status=204)
FAILED = Outcome(answer_status=500, problem="It answered with status 500.")


@pytest.fixture(autouse=True)
def _loopback_is_allowed(home: Any, settings: Any) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"webhook_allowed_hosts": ("127.0.0.0/8",)})


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@pytest.fixture
def hook(alice: User) -> Webhook:
    return create_webhook(owner=alice, url="https://example.org/hook")


def deliver_all() -> int:
    """What the courier does, here and now."""
    count = 0
    while (delivery := claim_delivery()) is not None:
        settle(delivery, send(delivery))
        count += 1
    return count


def finish(owner: User, status: JobStatus = JobStatus.FINISHED, **fields: Any) -> Job:
    job = make_running_job(owner)
    assert save(job) is not None
    assert jobs.end_job(job, status, host=HOST, **fields)
    return job


# What is written.


@pytest.mark.parametrize("status", [JobStatus.FINISHED, JobStatus.FAILED, JobStatus.CANCELLED])
def test_each_end_of_a_job_is_written_once(status: JobStatus, hook: Webhook, alice: User) -> None:
    job = finish(alice, status, error_message="No room." if status == JobStatus.FAILED else "")
    delivery = WebhookDelivery.objects.get()
    message = json.loads(delivery.body)
    assert (delivery.event, message["type"]) == (f"job.{status.value}",) * 2
    facts = message["data"]
    assert (facts["id"], facts["status"], facts["url"]) == (
        job.pk,
        status.value,
        f"/api/generations/{job.pk}",
    )
    assert facts["error"] == ("No room." if status == JobStatus.FAILED else None)
    (take,) = facts["takes"]
    assert take["audio_url"] == f"/api/takes/{take['id']}/audio"


def test_a_cancelled_job_that_never_ran_is_told(hook: Webhook, alice: User) -> None:
    jobs.request_cancel(make_job(alice))
    assert WebhookDelivery.objects.get().event == "job.cancelled"


def test_a_job_that_goes_back_to_the_queue_is_not_told(hook: Webhook, alice: User) -> None:
    job = make_running_job(alice)
    jobs.hand_back(job, HOST, counts_as_attempt=True)
    assert not WebhookDelivery.objects.exists()


def test_an_end_that_is_undone_leaves_no_message(hook: Webhook, alice: User) -> None:
    job = make_running_job(alice)
    with transaction.atomic():
        jobs.end_job(job, JobStatus.FINISHED, host=HOST)
        transaction.set_rollback(True)
    assert Job.objects.get().status == JobStatus.RUNNING
    assert not WebhookDelivery.objects.exists()


def test_an_end_that_somebody_else_reached_is_not_told_twice(hook: Webhook, alice: User) -> None:
    job = make_running_job(alice)
    late = Job.objects.get()
    assert jobs.end_job(job, JobStatus.FINISHED, host=HOST)
    assert not jobs.end_job(late, JobStatus.FAILED, host=HOST)
    assert WebhookDelivery.objects.get().event == "job.finished"


def test_nobody_else_s_webhook_hears_of_it(hook: Webhook, bob: User) -> None:
    finish(bob)
    assert not WebhookDelivery.objects.exists()


@pytest.mark.parametrize("off", ["webhook", "person", "studio"])
def test_what_is_off_is_not_written_to(off: str, hook: Webhook, alice: User, settings: Any) -> None:
    job = make_running_job(alice)
    if off == "webhook":
        webhooks.disable_webhook(hook, "x")
    elif off == "person":
        User.objects.update(is_active=False)
    else:
        settings.STUDIO = settings.STUDIO.model_copy(update={"max_webhooks": 0})
    assert jobs.end_job(job, JobStatus.FINISHED, host=HOST)
    assert not WebhookDelivery.objects.exists()


# What arrives.


def test_a_receiver_can_verify_what_it_gets(receiver: Receiver, alice: User) -> None:
    """As the standard says it, and as our documentation shows it."""
    hook = create_webhook(owner=alice, url=receiver.url)
    finish(alice)
    assert deliver_all() == 1
    (request,) = receiver.received
    message_id, timestamp = request.headers["webhook-id"], request.headers["webhook-timestamp"]
    key = base64.b64decode(hook.secret.removeprefix("whsec_"))
    signed = b".".join([message_id.encode(), timestamp.encode(), request.body])
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"] == expected
    assert abs(int(timestamp) - timezone.now().timestamp()) < 60
    assert request.headers["Content-Type"] == "application/json"
    assert json.loads(request.body)["type"] == "job.finished"
    delivery = WebhookDelivery.objects.get()
    assert (delivery.status, delivery.attempts, delivery.answer_status) == (DeliveryStatus.DELIVERED, 1, 204)
    assert deliver_all() == 0


def test_a_message_keeps_its_id_and_body_over_all_attempts(receiver: Receiver, alice: User) -> None:
    create_webhook(owner=alice, url=receiver.url)
    receiver.answers = [500, 503]
    finish(alice)
    for _ in range(3):
        assert deliver_all() == 1
        WebhookDelivery.objects.filter(status="pending").update(due_at=timezone.now())
    assert deliver_all() == 0
    assert len({(each.headers["webhook-id"], each.body) for each in receiver.received}) == 1
    assert len(receiver.received) == 3


def test_waits_grow_and_end(hook: Webhook) -> None:
    webhooks.send_test(hook)
    waits = []
    while (delivery := claim_delivery()) is not None:
        settle(delivery, FAILED)
        delivery.refresh_from_db()
        waits.append((delivery.due_at - timezone.now()).total_seconds())
        WebhookDelivery.objects.filter(status="pending").update(due_at=timezone.now())
        Webhook.objects.update(failing_since=timezone.now())
    assert delivery is None
    row = WebhookDelivery.objects.get()
    assert (row.status, row.attempts) == (DeliveryStatus.FAILED, len(BACKOFF) + 1)
    assert row.problem == "It answered with status 500."
    for wait, planned in zip(waits, BACKOFF, strict=False):
        assert 0.85 * planned - 1 < wait <= 1.11 * planned
    assert 3 * 86400 < sum(BACKOFF) < 4 * 86400


def test_a_redirect_counts_as_a_failure(receiver: Receiver, alice: User) -> None:
    create_webhook(owner=alice, url=receiver.url)
    receiver.answers, receiver.location = [307], receiver.url
    finish(alice)
    deliver_all()
    assert len(receiver.received) == 1
    assert "redirect, which is not followed" in WebhookDelivery.objects.get().problem


def test_an_address_that_came_to_lead_inside_is_not_called(
    receiver: Receiver, alice: User, settings: Any
) -> None:
    create_webhook(owner=alice, url=receiver.url)
    settings.STUDIO = settings.STUDIO.model_copy(update={"webhook_allowed_hosts": ()})
    finish(alice)
    deliver_all()
    assert receiver.received == []
    assert WebhookDelivery.objects.get().status == DeliveryStatus.PENDING


# Many senders.


def test_a_message_is_claimed_once_and_again_when_its_sender_died(hook: Webhook) -> None:
    webhooks.send_test(hook)
    first = claim_delivery()
    assert first is not None
    assert claim_delivery() is None, "somebody has it"
    WebhookDelivery.objects.update(due_at=timezone.now())  # its lease ran out
    second = claim_delivery()
    assert second is not None
    assert second.attempts == 2
    assert not settle(first, FAILED), "a later attempt counts"
    assert settle(second, DELIVERED)
    assert not settle(second, FAILED)
    assert WebhookDelivery.objects.get().status == DeliveryStatus.DELIVERED


def test_a_lost_race_takes_the_next_message(hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = webhooks.send_test(hook), webhooks.send_test(hook)
    original = WebhookDelivery.objects.filter
    raced: list[int] = []

    def racing(*conditions: Any, **fields: Any) -> Any:
        if "attempts" in fields and not raced:
            raced.append(first.pk)
            original(pk=first.pk).update(attempts=1, due_at=timezone.now() + LEASE)
        return original(*conditions, **fields)

    monkeypatch.setattr(WebhookDelivery.objects, "filter", racing)
    claimed = claim_delivery()
    assert claimed is not None
    assert claimed.pk == second.pk


def test_one_person_s_slow_receiver_holds_up_nobody_else(hook: Webhook, alice: User, bob: User) -> None:
    webhooks.send_test(hook)
    webhooks.send_test(hook)
    theirs = webhooks.send_test(create_webhook(owner=bob, url="https://example.org/bob"))
    assert claim_delivery(busy_owners=[alice.pk]) == theirs
    assert claim_delivery(busy_owners=[alice.pk]) is None


def test_a_clock_that_was_ahead_delays_no_message(hook: Webhook) -> None:
    webhooks.send_test(hook)
    WebhookDelivery.objects.update(due_at=timezone.now() + timedelta(days=300))
    assert claim_delivery() is not None


# Lasting failure.


def attempt(hook: Webhook, *, days: float, attempts: int = 6, outcome: Outcome = FAILED) -> None:
    webhooks.send_test(hook)
    Webhook.objects.update(failing_since=timezone.now() - timedelta(days=days))
    WebhookDelivery.objects.filter(status="pending").update(attempts=attempts - 1)
    delivery = claim_delivery()
    assert delivery is not None
    settle(delivery, outcome)
    hook.refresh_from_db()


def test_a_receiver_that_fails_for_days_is_turned_off_with_a_notice(
    hook: Webhook, alice: User, client: Client, shared_mode: None, settings: Any
) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"email_url": "console:"})
    alice.email = "alice@example.org"
    alice.save()
    attempt(hook, days=2.9)
    assert hook.disabled_at is None
    attempt(hook, days=3.1, attempts=2)
    assert hook.disabled_at is None, "the studio was off; this receiver was hardly asked"
    attempt(hook, days=3.1)
    assert hook.disabled_reason == "Nothing could be delivered for 3 days. Last: It answered with status 500."
    assert not WebhookDelivery.objects.filter(status=DeliveryStatus.PENDING).exists()
    (entry,) = AuditEntry.objects.filter(action="webhook.disabled")
    assert (entry.way, entry.object_name) == ("webhook", f"webhook {hook.pk} to example.org")
    (message,) = mail.outbox
    assert message.to == ["alice@example.org"]
    assert "Nothing could be delivered for 3 days" in message.body
    client.force_login(alice)
    assert "Nothing could be delivered for 3 days" in client.get("/webhooks/").content.decode()
    assert ">off<" in client.get("/account/").content.decode()


def test_a_receiver_that_is_gone_is_turned_off_at_once(hook: Webhook) -> None:
    attempt(hook, days=0, attempts=1, outcome=Outcome(410, "It answered with status 410."))
    assert "gone for good (410)" in hook.disabled_reason


def test_one_success_forgets_the_failures(hook: Webhook) -> None:
    attempt(hook, days=2, outcome=DELIVERED)
    assert hook.failing_since is None


def test_it_can_be_turned_on_and_a_message_sent_again(receiver: Receiver, alice: User) -> None:
    hook = create_webhook(owner=alice, url=receiver.url)
    finish(alice)
    webhooks.disable_webhook(hook, "x")
    assert deliver_all() == 0
    delivery = WebhookDelivery.objects.select_related("webhook").get()
    with pytest.raises(WebhookRefused, match="This webhook is off"):
        webhooks.send_again(delivery)
    webhooks.enable_webhook(hook)
    delivery = WebhookDelivery.objects.select_related("webhook").get()
    webhooks.send_again(delivery)
    with pytest.raises(WebhookRefused, match="still waiting"):
        webhooks.send_again(delivery)
    assert deliver_all() == 1
    assert receiver.received[0].headers["webhook-id"] == delivery.message_id


# Making one.


def test_a_person_has_as_many_as_the_operator_allows(alice: User, bob: User, settings: Any) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"max_webhooks": 1})
    create_webhook(owner=alice, url="https://example.org/1")
    with pytest.raises(WebhookRefused, match="You have 1 webhook, which is the limit") as refused:
        create_webhook(owner=alice, url="https://example.org/2")
    assert refused.value.code == "TOO_MANY_WEBHOOKS"
    assert create_webhook(owner=bob, url="https://example.org/1").pk


def test_the_same_address_twice_is_refused(hook: Webhook, alice: User) -> None:
    with pytest.raises(WebhookRefused, match="to this address already"):
        create_webhook(owner=alice, url=hook.url)


def test_the_secret_is_in_one_answer_alone(client: Client, shared_mode: None, alice: User) -> None:
    client.force_login(alice)
    made = client.post("/webhooks/", {"url": "https://example.org/page"}).content.decode()
    secret = Webhook.objects.get().secret
    assert secret in made
    hook = Webhook.objects.get()
    webhooks.send_test(hook)
    for path in ("/webhooks/", "/account/", "/api/webhooks", f"/api/webhooks/{hook.pk}/deliveries"):
        assert secret not in client.get(path).content.decode(), path
    assert secret not in str(list(AuditEntry.objects.values()))


def test_a_bad_address_keeps_what_was_typed(client: Client, owner: User) -> None:
    answer = client.post("/webhooks/", {"url": "http://<b>.example/"})
    assert answer.status_code == 400
    page = answer.content.decode()
    assert 'value="http://&lt;b&gt;.example/"' in page
    assert "is not the name of a host" in page


def test_a_script_makes_tries_reads_and_deletes_one(
    receiver: Receiver, shared_mode: None, alice: User
) -> None:
    program = script(alice, "generate")

    def call(method: str, path: str, **data: Any) -> Any:
        return getattr(program, method)(path, data, content_type="application/json")

    made = call("post", "/api/webhooks", url=receiver.url)
    assert made.status_code == 201
    hook = made.json()
    assert hook["secret"].startswith("whsec_")
    assert call("post", f"/api/webhooks/{hook['id']}/test").status_code == 202
    assert call("post", "/api/webhooks", url="https://10.0.0.1/").json()["error_code"] == "WEBHOOK_REFUSED"
    deliver_all()
    (delivery,) = program.get(f"/api/webhooks/{hook['id']}/deliveries").json()["deliveries"]
    assert (delivery["type"], delivery["status"], delivery["answer_status"]) == (
        "webhook.test",
        "delivered",
        204,
    )
    again = call("post", f"/api/webhooks/{hook['id']}/deliveries/{delivery['id']}/resend")
    assert again.status_code == 202
    assert call("delete", f"/api/webhooks/{hook['id']}").status_code == 204
    assert not WebhookDelivery.objects.exists()
    reader = script(alice, "read")
    assert reader.get("/api/webhooks").status_code == 200
    refused = reader.post("/api/webhooks", {"url": receiver.url}, content_type="application/json")
    assert refused.json()["error_code"] == "TOKEN_SCOPE"


def test_trying_webhooks_is_limited(shared_mode: None, client: Client, alice: User, hook: Webhook) -> None:
    client.force_login(alice)
    answers = [client.post(f"/webhooks/{hook.pk}/test/").status_code for _ in range(31)]
    assert (set(answers[:30]), answers[30]) == ({302}, 429)


def test_the_page_shows_what_was_sent(receiver: Receiver, client: Client, owner: User) -> None:
    create_webhook(owner=owner, url=receiver.url)
    receiver.answers = [500]
    make_take(owner)
    deliver_all()
    page = client.get("/webhooks/").content.decode()
    assert "job.finished, job" in page
    assert "It answered with status 500." in page
    assert ">failing<" in page
    assert 'href="/webhooks/"' in client.get("/settings/").content.decode()


def test_the_log_is_kept_for_two_weeks(hook: Webhook) -> None:
    old, waiting, young = (webhooks.send_test(hook) for _ in range(3))
    WebhookDelivery.objects.filter(pk__in=[old.pk, young.pk]).update(status=DeliveryStatus.DELIVERED)
    WebhookDelivery.objects.filter(pk__in=[old.pk, waiting.pk]).update(
        created_at=timezone.now() - timedelta(days=15)
    )
    run_rule(RULES_BY_NAME["deliveries"], Look())
    assert set(WebhookDelivery.objects.all()) == {waiting, young}


# By itself.


@pytest.mark.django_db(transaction=True)
def test_a_serving_process_sends_what_another_one_left(
    receiver: Receiver, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From rows alone: what was written before this process began, by several people, slow receivers included."""
    monkeypatch.setattr(housekeeper, "POLL", 0.05)
    monkeypatch.setattr(housekeeper, "FIRST_LOOK", 60)
    with receiving() as slow:
        slow.may_answer.clear()
        create_webhook(owner=alice, url=receiver.url)
        create_webhook(owner=bob, url=slow.url)
        finish(bob)
        for _ in range(3):
            finish(alice)

        async def scenario() -> None:
            keeper = Housekeeper()
            running = asyncio.create_task(keeper.run())
            for _ in range(400):
                if len(receiver.received) == 3 and len(slow.received) == 1:
                    break
                await asyncio.sleep(0.05)
            slow.may_answer.set()
            await asyncio.sleep(0.2)
            await keeper.stop(running)

        async_to_sync(scenario)()
    assert list(WebhookDelivery.objects.values_list("status", flat=True)) == ["delivered"] * 4
    assert [json.loads(each.body)["data"]["id"] for each in receiver.received] == sorted(
        Job.objects.filter(owner=alice).values_list("pk", flat=True)
    )


@pytest.mark.django_db(transaction=True)
def test_a_sender_that_breaks_loses_nothing(
    hook: Webhook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    webhooks.send_test(hook)

    def broken(delivery: WebhookDelivery) -> Outcome:
        raise RuntimeError("broken")

    monkeypatch.setattr(courier, "send", broken)

    async def scenario() -> None:
        one = courier.Courier()
        await one.send_due()
        await one.finish(5)

    async_to_sync(scenario)()
    delivery = WebhookDelivery.objects.get()
    assert delivery.status == DeliveryStatus.PENDING
    assert delivery.due_at > timezone.now() + deliveries.LEASE / 2
    assert "could not be sent" in caplog.text
