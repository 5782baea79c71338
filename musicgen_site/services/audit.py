"""Keeps the audit log: hears of deeds, logins and changed roles, and adds who asked, how and from where.

Nothing else writes entries. What is told inside a transaction that fails leaves none.
"""

from __future__ import annotations

from typing import Any, Final

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.db.models import Model
from django.db.models.signals import m2m_changed, post_delete, pre_save
from django.http import HttpRequest

from gated_configs.deeds import deed_done, tell_deed
from musicgen_site.access import OWNER_USERNAME
from musicgen_site.models import AuditEntry
from musicgen_site.request_in_hand import address_of, request_in_hand

#: What decides what somebody may do.
_ROLES: Final = {"is_active": "active", "is_staff": "staff", "is_superuser": "superuser"}


def listen() -> None:
    """Connect to everything that is kept."""
    deed_done.connect(_on_deed, dispatch_uid="audit-deeds")
    user_logged_in.connect(_on_login, dispatch_uid="audit-login")
    user_logged_out.connect(_on_logout, dispatch_uid="audit-logout")
    user_login_failed.connect(_on_failed_login, dispatch_uid="audit-failed")
    people = get_user_model()
    pre_save.connect(_on_person_saved, sender=people, dispatch_uid="audit-roles")
    post_delete.connect(_on_person_deleted, sender=people, dispatch_uid="audit-person-deleted")
    for relation in (people.groups.through, people.user_permissions.through):
        m2m_changed.connect(_on_rights_changed, sender=relation, dispatch_uid=f"audit-{relation.__name__}")


def _write(
    action: str,
    thing: Model | None,
    *,
    by: Any = None,
    request: HttpRequest | None = None,
    detail: str = "",
    way: str = "",
) -> None:
    request = request or request_in_hand.get()
    actor = by if by is not None else _person_of(request)
    is_known = getattr(actor, "pk", None) is not None
    token = getattr(request, "api_token", None)
    AuditEntry.objects.create(
        action=action,
        actor_id=actor.pk if actor is not None and is_known else None,
        actor_name=actor.get_username()[:150] if actor is not None and is_known else "",
        way=way or ("command" if request is None else f"token {token.name}" if token is not None else "page"),
        address=(address_of(request) or None) if request is not None else None,
        object_type=thing._meta.verbose_name[:40] if thing is not None else "",  # type: ignore[index]
        object_id=str(thing.pk)[:80] if thing is not None and thing.pk is not None else "",
        object_name=str(thing)[:200] if thing is not None else "",
        detail=detail[:300],
    )


def _person_of(request: HttpRequest | None) -> Any:
    if request is not None and settings.STUDIO.access == "local":
        # Not the request's own: asking for that makes the owner, which is told here in turn.
        return get_user_model().objects.filter(username=OWNER_USERNAME).first()
    return getattr(request, "user", None)


def _on_deed(*, action: str, thing: Model | None, by: Any, detail: str, way: str, **_: Any) -> None:
    _write(action, thing, by=by, detail=detail, way=way)


def _on_login(*, request: HttpRequest | None, user: Any, **_: Any) -> None:
    _write("login", user, by=user, request=request)


def _on_logout(*, request: HttpRequest | None, user: Any, **_: Any) -> None:
    if user is not None:
        _write("logout", user, by=user, request=request)


def _on_failed_login(*, credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any) -> None:
    # Only names of people who exist are kept: what else is typed there may be somebody's password.
    known = get_user_model().objects.filter(username=str(credentials.get("username", ""))[:150]).first()
    _write("login.failed", known, request=request, detail="" if known else "unknown name")


def _on_person_saved(*, instance: Any, raw: bool, update_fields: Any = None, **_: Any) -> None:
    if raw or (update_fields is not None and not {*_ROLES, "password"} & set(update_fields)):
        return
    before = get_user_model().objects.filter(pk=instance.pk).first() if instance.pk else None
    changes = [
        f"{word}: {'yes' if getattr(instance, name) else 'no'}"
        for name, word in _ROLES.items()
        if (getattr(before, name) if before else name == "is_active") != getattr(instance, name)
    ]
    if changes:
        tell_deed("role.changed", instance, detail=", ".join(changes))
    # A login may hash the same password anew; `_password` is there only when somebody set one.
    if before is not None and getattr(instance, "_password", None) is not None:
        _write("password.changed", instance)


def _on_person_deleted(*, instance: Any, **_: Any) -> None:
    _write("person.deleted", instance)


def _on_rights_changed(*, instance: Any, action: str, model: type[Model], pk_set: Any, **_: Any) -> None:
    if action in ("post_add", "post_remove", "post_clear") and isinstance(instance, User):
        what = ", ".join(str(row) for row in model._default_manager.filter(pk__in=pk_set or ()))
        _write("role.changed", instance, detail=f"{action[5:]} {model._meta.verbose_name}: {what}".strip())
