"""Look at tokens and at the audit log; tokens can be revoked, entries are as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from gated_configs.deeds import tell_deed
from musicgen_site.models import ApiToken, AuditEntry

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Any]
    _UserAdmin = UserAdmin[User]
else:
    _ModelAdmin = admin.ModelAdmin  # takes a type argument in the stubs only
    _UserAdmin = UserAdmin


class ForSuperusers:
    """Rows that only superusers change: with them anybody could give themselves every right."""

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Superusers."""
        return bool(request.user.is_active and getattr(request.user, "is_superuser", False))

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Superusers. The page of another person's password asks here too."""
        return self.has_add_permission(request)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Superusers."""
        return self.has_add_permission(request)


admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class PersonAdmin(ForSuperusers, _UserAdmin):
    """People. Staff with the right to view them may look."""


@admin.register(Group)
class RightsAdmin(ForSuperusers, GroupAdmin):
    """Groups of rights. Staff with the right to view them may look."""


class ReadOnlyAdmin(_ModelAdmin):
    """Rows that nobody adds, changes or deletes here."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Never."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Never."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Never."""
        return False


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    """What people did, newest first."""

    list_display = ("at", "action", "actor_name", "way", "address", "object_type", "object_name", "detail")
    list_filter = ("action", "way")
    search_fields = ("actor_name", "object_name", "object_id", "address")
    date_hierarchy = "at"


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnlyAdmin):
    """Whose tokens there are. An administrator sees everybody's, and can revoke any."""

    list_display = (
        "name",
        "hint",
        "owner",
        "scope",
        "created_at",
        "expires_at",
        "last_used_at",
        "revoked_at",
    )
    list_filter = ("scope",)
    search_fields = ("name", "owner__username")
    list_select_related = ("owner",)
    fields = list_display
    actions = ("revoke",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Rows that this person may see."""
        rows = super().get_queryset(request)
        return rows if getattr(request.user, "is_superuser", False) else rows.filter(owner=request.user)

    @admin.action(description="Revoke")
    def revoke(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """End the chosen tokens at once."""
        for token in queryset.filter(revoked_at__isnull=True):
            ApiToken.objects.filter(pk=token.pk).update(revoked_at=timezone.now())
            tell_deed("token.revoked", token, by=request.user)
        self.message_user(request, "The tokens are revoked.")
