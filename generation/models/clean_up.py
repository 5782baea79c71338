"""How often each rule of the clean-up ran, and what it removed: claimed by one process at a time, read by pages."""

from __future__ import annotations

from django.db import models
from django.utils import timezone


class CleanUp(models.Model):
    """One rule. Its totals only grow, so that metrics can be read from them."""

    name = models.CharField(primary_key=True, max_length=40)
    # When it may run next; whoever moves this runs it.
    due_at = models.DateTimeField(default=timezone.now)
    ran_at = models.DateTimeField(null=True)
    # Of the last run.
    removed = models.PositiveIntegerField(default=0)
    freed_bytes = models.PositiveBigIntegerField(default=0)
    removed_total = models.PositiveBigIntegerField(default=0)
    freed_bytes_total = models.PositiveBigIntegerField(default=0)
    # What it found and left alone.
    found = models.PositiveIntegerField(default=0)
    # What an operator should look at; empty when all is well.
    note = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
