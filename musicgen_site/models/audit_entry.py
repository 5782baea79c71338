"""What somebody did, when, from where and to what. Rows are added and never changed."""

from __future__ import annotations

from typing import Any, NoReturn

from django.db import models
from django.utils import timezone


class Appended(TypeError):
    """Somebody tried to change or remove what was written down."""

    def __init__(self) -> None:
        super().__init__("Audit entries are added and never changed or deleted.")


class AuditEntryQuerySet(models.QuerySet["AuditEntry"]):
    """Entries, without the ways to change them."""

    def update(self, **values: Any) -> NoReturn:
        """Refused."""
        raise Appended

    def delete(self) -> NoReturn:
        """Refused."""
        raise Appended


class AuditEntry(models.Model):
    """Who is kept as number and name, not as a reference: the entry outlives the account."""

    at = models.DateTimeField(default=timezone.now, editable=False)
    # In the past tense, by area: "login.failed", "adapter.imported".
    action = models.CharField(max_length=40, editable=False)
    actor_id = models.BigIntegerField(null=True, editable=False)
    actor_name = models.CharField(max_length=150, blank=True, editable=False)
    # "page", "token NAME", "command", or "clean-up" for what the studio did by its rules.
    way = models.CharField(max_length=80, blank=True, editable=False)
    address = models.GenericIPAddressField(null=True, editable=False)
    object_type = models.CharField(max_length=40, blank=True, editable=False)
    object_id = models.CharField(max_length=80, blank=True, editable=False)
    object_name = models.CharField(max_length=200, blank=True, editable=False)
    detail = models.CharField(max_length=300, blank=True, editable=False)

    objects = AuditEntryQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "audit entries"
        indexes = [
            models.Index(fields=["action", "id"], name="audit_action"),
            models.Index(fields=["actor_id", "id"], name="audit_actor"),
        ]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.action} {self.object_name}".strip()

    def save(self, *args: Any, **options: Any) -> None:
        """Add the entry. Raises Appended for one that is there."""
        if not self._state.adding:
            raise Appended
        super().save(*args, **{**options, "force_insert": True})

    def delete(self, *args: Any, **options: Any) -> NoReturn:
        """Refused."""
        raise Appended
