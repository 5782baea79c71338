"""How much of a limit somebody has used, as a row, so that every process counts the same."""

from __future__ import annotations

from django.db import models


class RateLimit(models.Model):
    """`due_at`, in seconds since 1970, is when the limit is whole again; a row whose time is over tells nothing."""

    # A hash of the limit and of whom it counts for: what people type into a login may be a password.
    key = models.CharField(primary_key=True, max_length=64)
    due_at = models.FloatField(db_index=True)

    def __str__(self) -> str:
        return self.key
