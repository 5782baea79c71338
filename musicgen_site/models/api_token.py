"""A personal token for scripts. Only its hash is kept: it has 256 random bits, so a plain one cannot be reversed."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

MAX_NAME_CHARACTERS: Final = 60


class TokenScope(models.TextChoices):
    """What a token may do; each may also do what stands before it."""

    READ = "read", "Read"
    GENERATE = "generate", "Read and generate"
    MANAGE = "manage", "Read, generate and manage"

    def includes(self, other: TokenScope) -> bool:
        """Whether this scope may do what `other` may."""
        order = list(TokenScope)
        return order.index(self) >= order.index(other)


class ApiTokenQuerySet(models.QuerySet["ApiToken"]):
    """Tokens and those that work."""

    def for_user(self, user: Any) -> ApiTokenQuerySet:
        """Tokens of this person."""
        return self.filter(owner=user)

    def unrevoked(self) -> ApiTokenQuerySet:
        """Tokens that a person sees in their list: those that work, and those that have expired."""
        return self.filter(revoked_at__isnull=True)

    def valid(self) -> ApiTokenQuerySet:
        """Tokens that work now: not revoked, not expired, and of a person who may log in."""
        unexpired = Q(expires_at__isnull=True) | Q(expires_at__gt=timezone.now())
        return self.unrevoked().filter(unexpired, owner__is_active=True)


class ApiToken(models.Model):
    """`hint` is the token's beginning, by which its owner knows it again."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=MAX_NAME_CHARACTERS)
    scope = models.CharField(max_length=10, choices=TokenScope.choices)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    hint = models.CharField(max_length=12, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = ApiTokenQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        verbose_name = "API token"
        constraints = [
            models.CheckConstraint(condition=Q(scope__in=TokenScope.values), name="token_scope_known")
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.hint}…)"

    def has_expired(self, now: datetime | None = None) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= (now or timezone.now())
