"""The admin of jobs, takes and hosts: to look, hardly to change."""

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from generation.models import EngineHost, Job, Take
from tests.generation.music import make_job, make_take

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home", "shared_mode")]


@pytest.mark.parametrize("table", ["job", "take", "enginehost"])
def test_every_list_and_page_opens(table: str, client: Client, staff: User, alice: User) -> None:
    take = make_take(alice)
    EngineHost.objects.create(name="host", hostname="machine", pid=1)
    client.force_login(staff)
    number = {"job": take.job_id, "take": take.pk, "enginehost": "host"}[table]
    assert client.get(f"/admin/generation/{table}/?q=piano").status_code in (200, 302)
    assert client.get(f"/admin/generation/{table}/{number}/change/").status_code == 200
    assert client.get(f"/admin/generation/{table}/add/").status_code == 403


def test_jobs_are_neither_changed_nor_deleted(client: Client, staff: User, alice: User) -> None:
    job = make_job(alice)
    client.force_login(staff)
    assert client.post(f"/admin/generation/job/{job.pk}/change/", {"status": "finished"}).status_code == 403
    assert client.post(f"/admin/generation/job/{job.pk}/delete/", {"post": "yes"}).status_code == 403
    assert Job.objects.get().status == "queued"


def test_of_a_take_only_title_and_mark_are_changed(client: Client, staff: User, alice: User) -> None:
    take = make_take(alice)
    client.force_login(staff)
    sent = {"title": "New", "is_favourite": "on", "prompt": "other", "seed": "1", "sha256": "0"}
    assert client.post(f"/admin/generation/take/{take.pk}/change/", sent).status_code == 302
    row = Take.objects.get()
    assert (row.title, row.is_favourite) == ("New", True)
    assert (row.prompt, row.seed, row.sha256) == (take.prompt, take.seed, take.sha256)
    assert client.post(f"/admin/generation/take/{take.pk}/delete/", {"post": "yes"}).status_code == 403


def test_staff_without_all_rights_sees_their_own_rows(client: Client, alice: User, bob: User) -> None:
    bob.is_staff = True
    bob.save(update_fields=["is_staff"])
    bob.user_permissions.add(Permission.objects.get(codename="view_take"))
    hers, his = make_take(alice, prompt="her strings"), make_take(bob, prompt="his drums")
    client.force_login(bob)
    html = client.get("/admin/generation/take/").content.decode()
    assert "his drums" in html
    assert "her strings" not in html
    assert client.get(f"/admin/generation/take/{hers.pk}/change/").status_code == 302
    assert client.get(f"/admin/generation/take/{his.pk}/change/").status_code == 200
