"""The first administrator of a shared studio: a one-time link, and the account made with it."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import UNUSABLE_PASSWORD_PREFIX
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from gated_configs.deeds import tell_deed
from musicgen_site.models import SetupLink
from musicgen_site.models.setup_link import SETUP_LINK_LIFE


class NameTaken(ValueError):
    """`str()` is the sentence for people."""


def needs_administrator() -> bool:
    """Whether nobody at all could log in. The owner of local mode has no password, so does not count."""
    could_log_in = get_user_model().objects.filter(is_active=True)
    return not could_log_in.exclude(password__startswith=UNUSABLE_PASSWORD_PREFIX).exists()


def make_setup_link() -> str:
    """A new link's secret. Links of earlier starts stay open, because two processes may start side by side."""
    now = timezone.now()
    SetupLink.objects.filter(expires_at__lte=now).delete()
    secret = secrets.token_urlsafe(32)
    SetupLink.objects.create(digest=_digest(secret), created_at=now, expires_at=now + SETUP_LINK_LIFE)
    return secret


def is_open(secret: str) -> bool:
    """Whether the first administrator can be made with this link now."""
    return _open_links(secret).exists() and needs_administrator()


def create_first_administrator(*, secret: str, username: str, password: str) -> User | None:
    """Use the link up. None when it is not open any more; of two uses at once one wins. Raises NameTaken.

    A person of that name who could not log in so far, such as the owner of local mode, becomes the administrator, and
    keeps what is theirs.
    """
    people: Any = get_user_model().objects
    with transaction.atomic():
        # The row that is deleted is the lock: whoever deletes it goes on.
        if not _open_links(secret).delete()[0] or not needs_administrator():
            return None
        user: User | None = people.filter(username=username).first()
        if user is None:
            if people.filter(username__iexact=username).exists():
                raise NameTaken("There is somebody of almost that name. Choose another.")
            user = User(username=username)
        user.is_active = user.is_staff = user.is_superuser = True
        user.set_password(password)
        user.save()
        SetupLink.objects.all().delete()
        tell_deed("administrator.created", user, by=user)
    return user


def _open_links(secret: str) -> Any:
    return SetupLink.objects.filter(digest=_digest(secret), expires_at__gt=timezone.now())


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
