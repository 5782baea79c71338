"""Versions of configs in the admin: to read, with what each changed. Nothing here edits or deletes one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join

from gated_configs.models import ConfigVersion, UserModelConfig
from gated_configs.services.curation import version_differences
from gated_configs.services.differences import Differences, json_excerpt
from gated_configs.wording import spoken_bytes

if TYPE_CHECKING:
    _VersionAdmin = admin.ModelAdmin[ConfigVersion]
    _VersionInline = admin.TabularInline[ConfigVersion, UserModelConfig]
else:  # these take type arguments in the stubs only
    _VersionAdmin = admin.ModelAdmin
    _VersionInline = admin.TabularInline

#: Versions shown with their differences; older ones are in the list of all versions.
SHOWN_VERSIONS = 20


def _changes(changes: Differences) -> str:
    lines = format_html_join("", "{}<br>", ((str(line),) for line in changes.lines))
    return lines if changes.is_complete else format_html("{}… and more", lines)


class VersionInline(_VersionInline):
    """The newest versions, to read."""

    model = ConfigVersion
    extra = 0
    can_delete = False
    show_change_link = True
    verbose_name_plural = f"versions (the newest {SHOWN_VERSIONS})"
    fields = ("number", "submitted_at", "submitted_by", "model_type", "parameter_count", "size", "changes")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[ConfigVersion]:
        """Of the config that is shown, the newest."""
        versions = super().get_queryset(request).select_related("submitted_by")
        match = request.resolver_match
        shown = unquote(match.kwargs.get("object_id", "")) if match is not None else ""
        if not shown.isdecimal():
            return versions.none()
        newest = ConfigVersion.objects.filter(config=int(shown)).order_by("-number")
        return versions.filter(pk__in=list(newest.values_list("pk", flat=True)[:SHOWN_VERSIONS]))

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Editing the text above makes one."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A version is never changed."""
        return False

    @admin.display(description="size")
    def size(self, version: ConfigVersion) -> str:
        """Of its text."""
        return spoken_bytes(version.size_bytes)

    @admin.display(description="changed")
    def changes(self, version: ConfigVersion) -> str:
        """Against the version before."""
        if version.number == 1:
            return "the first"
        return _changes(version_differences(version)) or "nothing"


@admin.register(ConfigVersion)
class ConfigVersionAdmin(_VersionAdmin):
    """Versions, to read."""

    list_display = ("config", "number", "submitted_at", "submitted_by", "model_type", "parameter_count")
    list_select_related = ("config__owner", "submitted_by")
    search_fields = ("config__model_id", "sha256")
    fields = (
        "config",
        "number",
        "submitted_at",
        "submitted_by",
        "model_type",
        "attention_type",
        "parameter_count",
        "sha256",
        "text",
    )
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[ConfigVersion]:
        """Without the contents, which a list does not show."""
        return super().get_queryset(request).defer("content")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Submitting makes one."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: ConfigVersion | None = None) -> bool:
        """A version is never changed."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: ConfigVersion | None = None) -> bool:
        """Nor deleted."""
        return False

    @admin.display(description="config.json")
    def text(self, version: ConfigVersion) -> str:
        """Its text."""
        return format_html("<pre>{}</pre>", json_excerpt(version.as_config()))
