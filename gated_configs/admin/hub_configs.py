"""What the hub answered, to read and to forget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html

from gated_configs.models import HubConfig
from gated_configs.services.curation import forget
from gated_configs.services.differences import json_excerpt

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[HubConfig]
else:
    _ModelAdmin = admin.ModelAdmin  # takes a type argument in the stubs only


@admin.register(HubConfig)
class HubConfigAdmin(_ModelAdmin):
    """The studio asks again by itself once an answer has expired, or after it was forgotten."""

    list_display = ("model_id", "endpoint", "short_commit", "fetched_at", "is_current")
    search_fields = ("model_id", "commit")
    fields = ("model_id", "endpoint", "commit", "fetched_at", "expires_at", "sha256", "config")
    readonly_fields = fields
    actions = ("forget",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Only the hub's answers get here."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: HubConfig | None = None) -> bool:
        """An answer is what it was."""
        return False

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Forgetting is the deletion here."""
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    def get_queryset(self, request: HttpRequest) -> QuerySet[HubConfig]:
        """Without the contents, which a list does not show."""
        return super().get_queryset(request).defer("content")

    @admin.action(description="Forget, and ask the hub again next time", permissions=["delete"])
    def forget(self, request: HttpRequest, queryset: QuerySet[HubConfig]) -> None:
        """Drop the chosen answers."""
        count = 0
        for config in queryset:
            self.log_deletions(request, HubConfig.objects.filter(pk=config.pk))
            forget(config, by=cast(User, request.user))
            count += 1
        noun = "config" if count == 1 else "configs"
        self.message_user(request, f"Forgot {count} {noun}: the hub is asked again.", messages.SUCCESS)

    @admin.display(description="commit")
    def short_commit(self, config: HubConfig) -> str:
        """As people quote it."""
        return config.commit[:7] or "unknown"

    @admin.display(description="current", boolean=True)
    def is_current(self, config: HubConfig) -> bool:
        """Whether it is used without asking again."""
        return config.expires_at > timezone.now()

    @admin.display(description="config.json")
    def config(self, config: HubConfig) -> str:
        """Its text."""
        return format_html("<pre>{}</pre>", json_excerpt(config.as_config()))
