"""A sound file that somebody brought in for the music to go on from or to follow: decoded, and written anew by the studio."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Exists, OuterRef, Q
from django.urls import reverse
from django.utils import timezone

from generation.models.job import UNFINISHED, Job
from generation.models.take import Take


class ClipQuerySet(models.QuerySet["Clip"]):
    """Clips as people and rules look for them."""

    def for_user(self, user: Any) -> ClipQuerySet:
        """Clips that this person may see: their own."""
        return self.filter(owner=user)

    def needless(self) -> ClipQuerySet:
        """Clips that no waiting or running job needs, and no take to be made again."""
        # By content: one that was brought in again is as good as the one before.
        made = Take.objects.filter(job=OuterRef("pk"))
        jobs = Job.objects.filter(Exists(made) | Q(status__in=UNFINISHED), owner=OuterRef("owner"))
        beginning = jobs.filter(continued_clip__isnull=False, continued_sha256=OuterRef("sha256"))
        melody = jobs.filter(melody_clip__isnull=False, melody_sha256=OuterRef("sha256"))
        return self.exclude(Exists(beginning) | Exists(melody))


class Clip(models.Model):
    """One 16-bit FLAC file under the clips folder, at the rate that it came with. The row is written after the file."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="clips")
    title = models.CharField(max_length=200)
    file_name = models.CharField(max_length=120, unique=True)
    file_bytes = models.PositiveBigIntegerField()
    sha256 = models.CharField(max_length=64)
    duration_seconds = models.FloatField()
    sample_rate = models.PositiveIntegerField()
    channels = models.PositiveSmallIntegerField()
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    # When it was last brought in or a job asked for it.
    used_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = ClipQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["owner", "sha256"], name="clip_content"),
            models.Index(fields=["used_at"], name="clip_age"),
        ]

    def __str__(self) -> str:
        return f"clip {self.pk}: {self.title}"

    @property
    def audio_url(self) -> str:
        """Address of the audio."""
        return reverse("api:clip_audio", args=[self.pk])
