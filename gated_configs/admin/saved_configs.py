"""The admin of saved configs: lists them, verifies, shares and retires, and edits by making versions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from gated_configs.admin.forms import ConfigForm
from gated_configs.admin.versions import VersionInline
from gated_configs.memory import CalculatorError, describe_text
from gated_configs.models import ConfigVersion, UserModelConfig
from gated_configs.services import curation
from gated_configs.services.lookup import LookupFailed

if TYPE_CHECKING:
    _ConfigAdmin = admin.ModelAdmin[UserModelConfig]
else:
    _ConfigAdmin = admin.ModelAdmin  # takes a type argument in the stubs only

_extra_actions: list[Callable[..., Any]] = []


def register_config_action(action: Callable[..., Any]) -> None:
    """Add an action of an app above this one to the list of saved configs."""
    _extra_actions.append(action)


class StateFilter(admin.SimpleListFilter):
    """Where a config stands."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The states, which overlap."""
        return [
            ("shared", "Shared"),
            ("verified", "Verified"),
            ("private", "Private"),
            ("retired", "Retired"),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Those of the chosen state."""
        match self.value():
            case "shared":
                return queryset.filter(shared_version__isnull=False)
            case "verified":
                return queryset.filter(pk__in=UserModelConfig.objects.verified())
            case "private":
                return queryset.filter(shared_version__isnull=True, is_retired=False)
            case "retired":
                return queryset.filter(is_retired=True)
        return queryset


class TypeFilter(admin.SimpleListFilter):
    """What kind of model it is, by its newest version."""

    title = "type"
    parameter_name = "type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The types that there are."""
        types = ConfigVersion.objects.exclude(model_type="").order_by("model_type")
        return [(name, name) for name in types.values_list("model_type", flat=True).distinct()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Those of the chosen type; the list is annotated with it."""
        return queryset.filter(newest_type=self.value()) if self.value() else queryset


@admin.register(UserModelConfig)
class UserModelConfigAdmin(_ConfigAdmin):
    """Each action checks the curator's right once more, says what it did, and is noted in the object's history."""

    list_display = (
        "model_id",
        "owner",
        "version",
        "type",
        "parameters",
        "is_shared",
        "is_verified",
        "is_retired",
        "updated_at",
    )
    list_filter = (StateFilter, TypeFilter)
    search_fields = ("model_id", "owner__username")
    list_select_related = ("owner",)
    inlines = (VersionInline,)
    actions = ("verify", "unverify", "share", "unshare", "retire", "restore", "compare_with_hub")
    facts = (
        "owner",
        "shared_version",
        "verified_version",
        "verified_by",
        "verified_at",
        "is_retired",
        "submitted_at",
        "updated_at",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[UserModelConfig]:
        """With what the list shows of the newest version."""
        newest = ConfigVersion.objects.filter(config=OuterRef("pk")).order_by("-number")
        return (
            super()
            .get_queryset(request)
            .annotate(
                newest_id=Subquery(newest.values("pk")[:1]),
                newest_number=Subquery(newest.values("number")[:1]),
                newest_type=Subquery(newest.values("model_type")[:1]),
                newest_parameters=Subquery(newest.values("parameter_count")[:1]),
            )
        )

    def get_form(
        self, request: HttpRequest, obj: UserModelConfig | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        """A form that knows who edits."""
        kwargs["fields"] = ("model_id",) if obj is None else ()
        kwargs["form"] = type("ConfigForm", (ConfigForm,), {"user": request.user})
        return super().get_form(request, obj, change, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: UserModelConfig | None = None) -> Any:
        """The text, and what is known of it; to those who may only look, what is known."""
        if not (self.has_change_permission(request, obj) if obj else self.has_add_permission(request)):
            return ((None, {"fields": ("model_id", *self.facts)}),)
        fields = ("model_id", "content", "file")
        return ((None, {"fields": fields}), *([("State", {"fields": self.facts})] if obj else []))

    def get_readonly_fields(
        self, request: HttpRequest, obj: UserModelConfig | None = None
    ) -> tuple[str, ...]:
        """The model it is of never changes."""
        return () if obj is None else ("model_id", *self.facts)

    def get_inlines(self, request: HttpRequest, obj: UserModelConfig | None) -> Any:
        """Versions of one that is there."""
        return self.inlines if obj is not None else []

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """With those of other apps, and without deletion in bulk: only what is retired goes, one by one."""
        actions: dict[str, Any] = super().get_actions(request)
        actions.pop("delete_selected", None)
        if self.has_change_permission(request):
            for function in _extra_actions:
                name = function.__name__
                actions[name] = (function, name, getattr(function, "short_description", name))
        return actions

    def has_delete_permission(self, request: HttpRequest, obj: UserModelConfig | None = None) -> bool:
        """What is in use is retired first."""
        return super().has_delete_permission(request, obj) and (obj is None or obj.is_retired)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Versions are not deleted by themselves, and go with their config."""
        shown, counts, needed, protected = super().get_deleted_objects(objs, request)
        return shown, counts, needed - {ConfigVersion._meta.verbose_name}, protected

    def get_urls(self) -> list[URLPattern]:
        """One page more: how a config differs from the hub's."""
        page = self.admin_site.admin_view(self.hub_view)
        own = path("<int:pk>/hub/", page, name="gated_configs_usermodelconfig_hub")
        return [own, *super().get_urls()]

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Compute before the admin opens its transaction: the calculator may have to start first."""
        if request.method == "POST" and self.has_change_permission(request):
            with suppress(CalculatorError):
                describe_text(request.POST.get("content", ""))
        return super().changeform_view(request, *args, **kwargs)

    def save_form(self, request: HttpRequest, form: Any, change: bool) -> Any:
        """The form saved everything by itself."""
        form.save_m2m = lambda: None
        if form.result is not None:
            form.instance = form.result.config
            self._tell_of_version(request, form.result)
        return form.instance

    def save_model(self, request: HttpRequest, obj: UserModelConfig, form: Any, change: bool) -> None:
        """Saved by the form already."""

    def _tell_of_version(self, request: HttpRequest, result: Any) -> None:
        if not result.is_new_version:
            self.message_user(request, "The text is that of the newest version; nothing was changed.")
            return
        shared = result.config.shared_version
        if shared is not None:
            new = f"Version {result.version.number} is saved."
            old = f"Everybody still sees version {shared.number}; share again to change that."
            self.message_user(request, f"{new} {old}", messages.WARNING)

    def hub_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """How the newest version differs from what the hub has."""
        config = self.get_object(request, str(pk))
        if config is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, str(pk))  # type: ignore[attr-defined,no-any-return]
        if not self.has_view_permission(request, config):
            return HttpResponse(status=403)
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "config": config,
            "version": config.current,
            "title": f"{config} and the hub",
        }
        try:
            context["comparison"] = curation.compare_with_hub(config)
        except LookupFailed as failed:
            context["failure"] = str(failed)
        return TemplateResponse(request, "admin/gated_configs/usermodelconfig/hub.html", context)

    # --- actions ---

    def _each(
        self, request: HttpRequest, configs: QuerySet[UserModelConfig], verb: Callable[..., Any], done: str
    ) -> None:
        count = 0
        for config in configs.select_related("owner"):
            try:
                version = verb(config, by=cast(User, request.user))
            except curation.CurationRefused as refused:
                self.message_user(request, str(refused), messages.ERROR)
                continue
            said = f"{done} {version}." if version is not None else f"{done}."
            self.log_change(request, config, said)
            count += 1
        if count:
            noun = "config" if count == 1 else "configs"
            self.message_user(request, f"{done} {count} {noun}.", messages.SUCCESS)

    @admin.action(description="Verify the newest version", permissions=["change"])
    def verify(self, request: HttpRequest, queryset: QuerySet[UserModelConfig]) -> None:
        """Say that they are right."""
        self._each(request, queryset, curation.verify, "Verified")

    @admin.action(description="Take verification back", permissions=["change"])
    def unverify(self, request: HttpRequest, queryset: QuerySet[UserModelConfig]) -> None:
        """Say nothing about them."""
        self._each(request, queryset, curation.unverify, "Took verification back from")

    @admin.action(description="Share the newest version with everybody", permissions=["change"])
    def share(self, request: HttpRequest, queryset: QuerySet[UserModelConfig]) -> None:
        """Show them to everybody; of one model the last one counts."""
        self._each(request, queryset, curation.share, "Shared")

    @admin.action(description="Stop sharing", permissions=["change"])
    def unshare(self, request: HttpRequest, queryset: QuerySet[UserModelConfig]) -> None:
        """Show them to their owners alone."""
        self._each(request, queryset, curation.unshare, "Stopped sharing")

    @admin.action(description="Retire: use it no longer", permissions=["change"])
    def retire(self, request: HttpRequest, queryset: QuerySet[UserModelConfig]) -> None:
        """Use them no longer."""
        self._each(request, queryset, curation.retire, "Retired")

    @admin.action(description="Restore what was retired", permissions=["change"])
    def restore(self, request: HttpRequest, queryset: QuerySet[UserModelConfig]) -> None:
        """Let their owners use them again."""
        self._each(request, queryset, curation.restore, "Restored")

    @admin.action(description="Compare with the hub", permissions=["view"])
    def compare_with_hub(
        self, request: HttpRequest, queryset: QuerySet[UserModelConfig]
    ) -> HttpResponse | None:
        """Open the page of one."""
        chosen = list(queryset[:2])
        if len(chosen) != 1:
            self.message_user(request, "Choose one config to compare.", messages.ERROR)
            return None
        return HttpResponseRedirect(reverse("admin:gated_configs_usermodelconfig_hub", args=[chosen[0].pk]))

    # --- columns ---

    @admin.display(description="version", ordering="newest_number")
    def version(self, config: Any) -> int:
        """The newest."""
        return int(config.newest_number)

    @admin.display(description="type", ordering="newest_type")
    def type(self, config: Any) -> str:
        """Of the newest version."""
        return str(config.newest_type)

    @admin.display(description="parameters", ordering="newest_parameters")
    def parameters(self, config: Any) -> str:
        """Of the newest version."""
        return f"{config.newest_parameters:,}" if config.newest_parameters is not None else "unknown"

    @admin.display(description="shared", boolean=True, ordering="shared_version")
    def is_shared(self, config: UserModelConfig) -> bool:
        """Whether everybody sees a version of it."""
        return config.is_shared

    @admin.display(description="verified", boolean=True)
    def is_verified(self, config: Any) -> bool:
        """Whether the newest version is the one that was found right."""
        return config.verified_version_id is not None and config.verified_version_id == config.newest_id
