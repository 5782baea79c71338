"""People and their rights in the admin: nobody who is not a superuser makes anybody more than they are."""

from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.test import Client

from tests.site.people import logged_in

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("shared_mode", "home")]


@pytest.fixture
def helper(bob: User) -> Client:
    """Staff who was given every single right there is, and is no superuser."""
    bob.is_staff = True
    bob.save()
    bob.user_permissions.set(Permission.objects.all())
    return logged_in(bob)


def form_of(person: User, **changed: Any) -> dict[str, Any]:
    """What the page of a person sends."""
    return {
        "username": person.username,
        "email": "",
        "is_active": "on",
        "is_staff": "on",
        "date_joined_0": "2026-01-01",
        "date_joined_1": "00:00:00",
        **changed,
    }


def test_staff_with_all_rights_raises_nobody(helper: Client, alice: User, bob: User, staff: User) -> None:
    for person in (bob, alice, staff):
        page = f"/admin/auth/user/{person.pk}/"
        assert helper.get(f"{page}change/").status_code == 200, "they may look"
        assert (
            helper.post(f"{page}change/", form_of(person, is_superuser="on", email="m@x.example")).status_code
            == 403
        )
        assert (
            helper.post(
                f"{page}password/", {"password1": "a long one 77", "password2": "a long one 77"}
            ).status_code
            == 403
        )
        assert helper.post(f"{page}delete/", {"post": "yes"}).status_code == 403
    assert helper.post("/admin/auth/user/add/", {"username": "new"}).status_code == 403
    assert helper.post("/admin/auth/group/add/", {"name": "all"}).status_code == 403
    assert User.objects.filter(is_superuser=True).get() == staff
    assert User.objects.count() == 3
    assert not Group.objects.exists()
    staff.refresh_from_db()
    assert staff.check_password("staff-password")
    assert staff.email == ""


def test_superusers_look_after_people(staff: User, alice: User) -> None:
    client = logged_in(staff)
    answer = client.post(f"/admin/auth/user/{alice.pk}/change/", form_of(alice, email="a@example.org"))
    assert answer.status_code == 302
    alice.refresh_from_db()
    assert (alice.is_staff, alice.email) == (True, "a@example.org")
    assert client.get("/admin/auth/group/add/").status_code == 200


def test_nobody_looks_for_what_is_not_shown(helper: Client, staff: User) -> None:
    """A filter in the address could find a hash out letter by letter."""
    for query in ("password__startswith=md5", "owner__password__startswith=m"):
        answer = helper.get(f"/admin/auth/user/?{query}")
        assert answer.status_code in (302, 400), query
    for table in ("generation/job", "musicgen_site/apitoken"):
        answer = helper.get(f"/admin/{table}/?owner__password__startswith=m")
        assert answer.status_code in (302, 400), table
