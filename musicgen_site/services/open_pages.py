"""Pages that are open when somebody's password or account changes: their sockets end, and come back only with a login.

Requests look at the login each time; a socket does so only when it begins.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.db.models.signals import post_save, pre_delete

from generation.events import AccessChanged
from registry.events import send_on_commit


def listen() -> None:
    """Begin to look after them."""
    post_save.connect(_on_saved, sender=get_user_model(), dispatch_uid="open-pages-saved")
    pre_delete.connect(_on_deleted, sender=get_user_model(), dispatch_uid="open-pages-deleted")


def _on_saved(*, instance: Any, created: bool, raw: bool, **_: Any) -> None:
    has_new_password = getattr(instance, "_password", None) is not None
    if not created and not raw and (has_new_password or not instance.is_active):
        send_on_commit(AccessChanged(owner_id=instance.pk))


def _on_deleted(*, instance: Any, **_: Any) -> None:
    send_on_commit(AccessChanged(owner_id=instance.pk))
