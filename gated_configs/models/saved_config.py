"""A person's config of one model and its versions. Versions never change; curation points at one of them.

A paste makes a version. Sharing and verifying name the version they are about, so a later paste changes neither.
"""

from __future__ import annotations

import json
from typing import Any, Final

from django.conf import settings
from django.db import models
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Length, Lower
from django.db.models.lookups import Exact
from django.utils import timezone

#: Two parts of 96 characters and a slash.
MAX_ID_CHARACTERS: Final = 193
_SHA256_CHARACTERS: Final = 64


class UserModelConfigQuerySet(models.QuerySet["UserModelConfig"]):
    """Questions people ask of the table."""

    def of_model(self, model_id: str) -> UserModelConfigQuerySet:
        """Configs of one model; letters of either case mean the same model, as on the hub."""
        return self.filter(model_id__iexact=model_id)

    def shared(self) -> UserModelConfigQuerySet:
        """Those that everybody sees: at most one for each model."""
        return self.filter(shared_version__isnull=False, is_retired=False)

    def in_use(self) -> UserModelConfigQuerySet:
        """Those that are not retired."""
        return self.filter(is_retired=False)

    def verified(self) -> UserModelConfigQuerySet:
        """Those whose newest version is the one that an admin verified."""
        newer = ConfigVersion.objects.filter(
            config=OuterRef("pk"), number__gt=OuterRef("verified_version__number")
        )
        return self.filter(verified_version__isnull=False).exclude(Exists(newer))


class UserModelConfig(models.Model):
    """What one person saved for one model. An admin may verify it, share one version of it, or retire it."""

    model_id = models.CharField("model", max_length=MAX_ID_CHARACTERS)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="model_configs"
    )
    # The version that everybody sees, and the one that an admin found right. The newest may be neither.
    shared_version = models.ForeignKey(
        "ConfigVersion", null=True, blank=True, on_delete=models.RESTRICT, related_name="+", editable=False
    )
    verified_version = models.ForeignKey(
        "ConfigVersion", null=True, blank=True, on_delete=models.RESTRICT, related_name="+", editable=False
    )
    verified_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        editable=False,
    )
    verified_at = models.DateTimeField(null=True, blank=True, editable=False)
    is_retired = models.BooleanField("retired", default=False, editable=False)
    submitted_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = UserModelConfigQuerySet.as_manager()

    class Meta:
        verbose_name = "saved config"
        ordering = [Lower("model_id"), "id"]
        constraints = [
            models.UniqueConstraint("owner", Lower("model_id"), name="one_config_of_a_model_and_owner"),
            models.UniqueConstraint(
                Lower("model_id"),
                condition=Q(shared_version__isnull=False),
                name="one_shared_config_of_a_model",
                violation_error_message="Another config of this model is shared already.",
            ),
            models.CheckConstraint(
                condition=Q(is_retired=False) | Q(shared_version__isnull=True),
                name="retired_config_is_not_shared",
            ),
            models.CheckConstraint(
                condition=Q(verified_version__isnull=True, verified_at__isnull=True)
                | Q(verified_version__isnull=False, verified_at__isnull=False),
                name="verified_config_says_since_when",
            ),
            models.CheckConstraint(condition=~Q(model_id=""), name="config_names_its_model"),
        ]

    def __str__(self) -> str:
        return f"{self.model_id} of {self.owner or 'nobody'}"

    @property
    def current(self) -> ConfigVersion:
        """The newest version."""
        version = self.versions.order_by("-number").first()
        assert version is not None, "a config is saved together with its first version"
        return version

    @property
    def is_shared(self) -> bool:
        """Whether everybody sees a version of it."""
        return self.shared_version_id is not None

    @property
    def is_verified(self) -> bool:
        """Whether an admin found the newest version right."""
        return self.verified_version_id is not None and self.verified_version_id == self.current.pk


class VersionIsFinal(TypeError):
    """Code tried to change a version."""

    def __init__(self) -> None:
        super().__init__("A version is never changed. Submit the config again to make a new one.")


class ConfigVersionQuerySet(models.QuerySet["ConfigVersion"]):
    """Versions are added and read."""

    def update(self, **values: Any) -> int:
        """Refuse: raises VersionIsFinal."""
        raise VersionIsFinal

    def delete(self) -> tuple[int, dict[str, int]]:
        """Refuse: a version goes only together with its config."""
        raise VersionIsFinal


class ConfigVersion(models.Model):
    """One text of a config, as it was submitted. `content` is canonical JSON, `sha256` its hash."""

    config = models.ForeignKey(UserModelConfig, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    content = models.TextField()
    size_bytes = models.PositiveIntegerField("size")
    sha256 = models.CharField("SHA-256", max_length=_SHA256_CHARACTERS)
    model_type = models.CharField(max_length=40, blank=True)
    attention_type = models.CharField(max_length=40, blank=True)
    parameter_count = models.PositiveBigIntegerField(null=True)
    submitted_at = models.DateTimeField(default=timezone.now)
    submitted_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )

    objects = ConfigVersionQuerySet.as_manager()

    class Meta:
        verbose_name = "version"
        ordering = ["config", "-number"]
        constraints = [
            models.UniqueConstraint(fields=["config", "number"], name="one_version_of_a_number"),
            models.CheckConstraint(condition=Q(number__gte=1), name="versions_count_from_one"),
            models.CheckConstraint(
                condition=Exact(Length("sha256"), _SHA256_CHARACTERS), name="version_hash_is_whole"
            ),
        ]

    def __str__(self) -> str:
        return f"version {self.number}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Store a new version. Raises VersionIsFinal for one that is stored already."""
        if not self._state.adding:
            raise VersionIsFinal
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        """Refuse: a version goes only together with its config."""
        raise VersionIsFinal

    def as_config(self) -> dict[str, Any]:
        """The config, parsed."""
        config: dict[str, Any] = json.loads(self.content)
        return config
