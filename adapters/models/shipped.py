"""Which of the adapters that ship with the studio were brought in before. Knows nothing of files."""

from __future__ import annotations

from django.db import models


class ShippedImport(models.Model):
    """A shipped adapter that this studio was given once: whoever deletes it does not get it back at the next start."""

    sha256 = models.CharField(max_length=64, primary_key=True)
    imported_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.sha256[:12]
