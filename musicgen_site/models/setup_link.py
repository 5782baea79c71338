"""A one-time link with which the first administrator of a shared studio is made. Only its hash is kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from django.db import models
from django.utils import timezone

#: How long a link works.
SETUP_LINK_LIFE: Final = timedelta(hours=24)


class SetupLink(models.Model):
    """One printed by a start of the server. Several may be open; the first use closes them all."""

    digest = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"link of {self.created_at:%Y-%m-%d %H:%M}"
