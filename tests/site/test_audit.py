"""The audit log: who did what, when, how and from where; rows are added and never changed."""

from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection, transaction
from django.test import Client

from adapters.models import Adapter
from gated_configs.deeds import tell_deed
from gated_configs.services.submission import save_config
from generation.services.adapters import delete_adapter
from musicgen_site.models import ApiToken, AuditEntry
from musicgen_site.models.audit_entry import Appended
from registry.services import cancel_switch, request_switch
from tests.adapters.zips import adapter_files, zipped
from tests.gated_configs.conftest import TINY
from tests.generation.music import make_take
from tests.site.people import logged_in, script

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("shared_mode", "home")]


def entries(action: str) -> list[tuple[str, str, str | None, str, str]]:
    """Actor, way, address, object and detail of each entry of that action, oldest first."""
    rows = AuditEntry.objects.filter(action=action).order_by("id")
    return list(rows.values_list("actor_name", "way", "address", "object_name", "detail"))


def test_logins_and_logouts_are_kept(alice: User) -> None:
    client = Client(REMOTE_ADDR="192.0.2.7")
    client.post("/login/", {"username": "alice", "password": "wrong"})
    client.post("/login/", {"username": "alice", "password": "alice-password"})
    client.post("/logout/")
    assert entries("login.failed") == [("", "page", "192.0.2.7", "alice", "")]
    assert entries("login") == [("alice", "page", "192.0.2.7", "alice", "")]
    assert entries("logout") == [("alice", "page", "192.0.2.7", "alice", "")]


def test_what_was_typed_as_a_name_is_not_kept(alice: User) -> None:
    Client().post("/login/", {"username": "my-secret-password", "password": "alice"})
    assert entries("login.failed") == [("", "page", "127.0.0.1", "", "unknown name")]
    assert "secret" not in str(list(AuditEntry.objects.values()))


def test_a_switch_is_kept_with_who_asked(staff: User) -> None:
    logged_in(staff).post("/settings/switch/", {"model_id": "musicgen-small"})
    logged_in(staff).post("/settings/switch/cancel/")
    (asked,), (cancelled,) = entries("switch.requested"), entries("switch.cancelled")
    assert (asked[0], asked[1]) == ("staff", "page")
    assert "musicgen-small" in asked[3]
    assert cancelled[0] == "staff"


def test_an_import_is_kept_with_its_way(staff: User) -> None:
    from django.core.files.uploadedfile import SimpleUploadedFile

    file = SimpleUploadedFile("jazz.zip", zipped(adapter_files(seed=1)), "application/zip")
    answer = script(staff, "manage").post("/api/adapters", {"file": file, "name": "Jazz"})
    assert answer.status_code == 201
    assert entries("adapter.imported") == [("staff", "token script", "127.0.0.1", "Jazz v1.0", "jazz.zip")]
    adapter = Adapter.objects.get()
    logged_in(staff).post(f"/adapters/{adapter.pk}/delete/")
    assert entries("adapter.deleted") == [("staff", "page", "127.0.0.1", "Jazz v1.0", "")]


def test_shares_of_configs_are_kept(alice: User, staff: User) -> None:
    saved = save_config(owner=alice, submitted_by=alice, model_id="studio/saved", config=dict(TINY)).config
    page = "/admin/gated_configs/usermodelconfig/"
    for action in ("share", "unshare", "retire"):
        logged_in(staff).post(page, {"action": action, "_selected_action": [saved.pk]})
    for action in ("config.shared", "config.unshared", "config.retired"):
        (entry,) = entries(action)
        assert entry[:3] == ("staff", "page", "127.0.0.1")
        assert "studio/saved" in entry[3]


def test_a_deed_of_a_command_has_no_address(staff: User) -> None:
    answer = request_switch("musicgen-small", staff)
    assert answer.switch is not None
    cancel_switch(answer.switch)
    assert entries("switch.requested")[0][:3] == ("staff", "command", None)
    assert entries("switch.cancelled")[0][:3] == ("", "command", None)


def test_a_deleted_take_is_kept(alice: User) -> None:
    take = make_take(alice)
    logged_in(alice).post(f"/takes/{take.pk}/delete/")
    assert [row[:2] for row in entries("take.deleted")] == [("alice", "page")]


def test_tokens_and_roles_are_kept(alice: User, staff: User) -> None:
    client = logged_in(staff)
    script(alice, "generate")
    alice.is_staff = True
    alice.save()
    alice.save()
    alice.groups.add(Group.objects.create(name="curators"))
    alice.set_password("another long one 8")
    alice.save()
    sent = {"action": "revoke", "_selected_action": [str(ApiToken.objects.get(owner=alice).pk)]}
    client.post("/admin/musicgen_site/apitoken/", sent)
    assert [row[4] for row in entries("token.created")] == ["Read and generate"]
    assert [row[0] for row in entries("token.revoked")] == ["staff"]
    assert ApiToken.objects.filter(owner=alice).valid().count() == 0
    told = [row[4] for row in entries("role.changed") if row[3] == "alice"]
    assert told == ["staff: yes", "add group: curators"]
    assert [row[3] for row in entries("password.changed")] == ["alice"]
    alice.delete()
    assert [row[3] for row in entries("person.deleted")] == ["alice"]


def test_a_login_that_hashes_anew_is_no_change_of_password(alice: User, settings: Any) -> None:
    settings.PASSWORD_HASHERS = [
        "django.contrib.auth.hashers.ScryptPasswordHasher",
        "django.contrib.auth.hashers.MD5PasswordHasher",
    ]
    before = User.objects.get().password
    Client().post("/login/", {"username": "alice", "password": "alice-password"})
    assert User.objects.get().password != before
    assert entries("password.changed") == []


def test_what_is_undone_is_not_on_record(alice: User) -> None:
    with transaction.atomic():
        tell_deed("something.done", alice)
        transaction.set_rollback(True)
    assert entries("something.done") == []


def test_entries_are_neither_changed_nor_deleted(alice: User) -> None:
    tell_deed("something.done", alice, by=alice)
    entry = AuditEntry.objects.get(action="something.done")
    entry.action = "nothing.done"
    for attempt in (
        entry.save,
        entry.delete,
        AuditEntry.objects.all().delete,
        lambda: AuditEntry.objects.update(action="nothing.done"),
    ):
        with pytest.raises(Appended):
            attempt()
    alice.delete()
    kept = AuditEntry.objects.get(action="something.done")
    assert (kept.actor_name, kept.object_name) == ("alice", "alice")


def test_the_admin_shows_entries_and_changes_none(staff: User) -> None:
    client = logged_in(staff)
    tell_deed("something.done", staff)
    entry = AuditEntry.objects.get(action="something.done")
    base = "/admin/musicgen_site/auditentry/"
    assert "something.done" in client.get(base).content.decode()
    assert client.get(f"{base}{entry.pk}/change/").status_code == 200
    assert client.get(f"{base}add/").status_code == 403
    for path, sent in [
        (f"{base}{entry.pk}/change/", {"action": "x"}),
        (f"{base}{entry.pk}/delete/", {"post": "yes"}),
        (base, {"action": "delete_selected", "_selected_action": [entry.pk], "post": "yes"}),
    ]:
        client.post(path, sent)
    assert AuditEntry.objects.filter(pk=entry.pk, action="something.done").exists()


def test_names_that_are_long_or_strange_are_cut(alice: User) -> None:
    alice.username = "x" * 150
    tell_deed("something.done", alice, by=alice, detail="y" * 1000)
    assert len(entries("something.done")[0][4]) == 300


def test_a_deed_costs_one_query(alice: User) -> None:
    before = len(connection.queries_log)
    with_queries = connection.force_debug_cursor
    connection.force_debug_cursor = True
    try:
        tell_deed("something.done", alice, by=alice)
        assert len(connection.queries_log) - before == 1
    finally:
        connection.force_debug_cursor = with_queries


def test_a_refused_deletion_is_not_kept(staff: User) -> None:
    logged_in(staff).post("/adapters/999/delete/")
    assert entries("adapter.deleted") == []
    adapter = Adapter.objects.create(
        name="Jazz", sha256="0" * 64, weights_sha256="0" * 64, file_bytes=1, config={},
        tensor_count=2, rank=4, alpha=8.0, source="folder",
    )  # fmt: skip
    delete_adapter(adapter)
    assert len(entries("adapter.deleted")) == 1


def test_in_local_mode_it_is_the_owner(client: Client, settings: Any) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"access": "local"})
    settings.MIDDLEWARE = [
        name.replace("access.LoginMiddleware", "access.OwnerMiddleware") for name in settings.MIDDLEWARE
    ]
    assert client.get("/").status_code == 200
    client.post("/settings/switch/", {"model_id": "musicgen-small"})
    assert [row[:2] for row in entries("switch.requested")] == [("owner", "page")]
