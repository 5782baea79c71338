"""Look at jobs, takes and engine hosts. Only titles and marks are edited here; jobs are changed by their services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from generation.models import Clip, EngineHost, Job, JobAdapter, Take

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Any]
    _TabularInline = admin.TabularInline[JobAdapter, Job]
else:
    _ModelAdmin = admin.ModelAdmin  # takes a type argument in the stubs only
    _TabularInline = admin.TabularInline


class OwnRowsAdmin(_ModelAdmin):
    """Staff see their own rows; superusers see all."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Rows that this person may see."""
        rows = super().get_queryset(request)
        return rows if getattr(request.user, "is_superuser", False) else rows.filter(owner=request.user)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Jobs and takes come from the studio, which checks them."""
        return False


class JobAdapterInline(_TabularInline):
    """What the job was made with. Read only."""

    model = JobAdapter
    fields = ("label", "strength", "sha256")
    readonly_fields = fields
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """A job is what was asked for."""
        return False


@admin.register(Job)
class JobAdmin(OwnRowsAdmin):
    """Read only."""

    inlines = (JobAdapterInline,)

    list_display = (
        "id",
        "owner",
        "status",
        "model",
        "prompt",
        "duration_seconds",
        "created_at",
        "finished_at",
    )
    list_filter = ("status", "model")
    search_fields = ("prompt",)
    list_select_related = ("owner", "model")

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Status changes go through the services."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """A running job must not vanish under its engine."""
        return False


@admin.register(Take)
class TakeAdmin(OwnRowsAdmin):
    """Titles and marks can be edited; what the take is cannot."""

    list_display = ("id", "owner", "display_title", "model", "duration_seconds", "is_favourite", "created_at")
    list_filter = ("model", "is_favourite", "is_partial")
    search_fields = ("prompt", "title")
    list_select_related = ("owner", "model")
    fields = (
        "title",
        "is_favourite",
        "prompt",
        "seed",
        "model",
        "recipe",
        "file_name",
        "file_bytes",
        "sha256",
    )
    readonly_fields = ("prompt", "seed", "model", "recipe", "file_name", "file_bytes", "sha256")

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Deleting goes through the library, which also removes the file."""
        return False


@admin.register(Clip)
class ClipAdmin(OwnRowsAdmin):
    """Read only."""

    list_display = ("id", "owner", "title", "duration_seconds", "sample_rate", "channels", "created_at")
    search_fields = ("title",)
    list_select_related = ("owner",)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """A clip is what was brought in."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Deleting goes through the service, which also removes the file."""
        return False


@admin.register(EngineHost)
class EngineHostAdmin(_ModelAdmin):
    """Read only: engines write these rows themselves."""

    list_display = ("name", "state", "model_id", "device_name", "heartbeat_at")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Engines add themselves."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Engines speak for themselves."""
        return False
