"""What a person leaves behind whose account is closed: jobs that nobody waits for any more end.

Logins, tokens and webhooks look at the account each time; open pages are in open_pages.py.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.db.models.signals import post_save

from generation.services.jobs import cancel_all_of


def listen() -> None:
    """Begin to look after them."""
    post_save.connect(_on_saved, sender=get_user_model(), dispatch_uid="closed-accounts")


def _on_saved(*, instance: Any, created: bool, raw: bool, **_: Any) -> None:
    if not created and not raw and not instance.is_active:
        cancel_all_of(instance)
