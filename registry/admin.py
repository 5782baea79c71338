"""Curate models: edit limits, choose the active one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.db.models import QuerySet, URLField
from django.forms import ModelForm
from django.http import HttpRequest

from gated_configs.admin import register_config_action
from gated_configs.memory import CalculatorError
from gated_configs.models import UserModelConfig
from registry.models import ModelConfig
from registry.services import (
    ModelNotPlayable,
    NotAddable,
    SwitchUnderWay,
    add_config,
    config_in,
    facts_of_config,
    note_description,
    request_switch,
)

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[ModelConfig]
else:
    _ModelAdmin = admin.ModelAdmin  # takes a type argument in the stubs only

_BUILT = ("family", "hidden_size", "layers", "ffn_dim", "heads", "text_width")


@admin.register(ModelConfig)
class ModelConfigAdmin(_ModelAdmin):
    """The active model can neither be deleted nor made unplayable; an edited field is kept by later releases."""

    list_display = (
        "display_name",
        "id",
        "max_duration_seconds",
        "max_extended_seconds",
        "recommended_duration_seconds",
        "vram_requirement_gb",
        "licence",
        "is_playable",
        "is_active",
    )
    list_filter = ("is_playable", "channels")
    search_fields = ("id", "display_name", "hf_model_id")
    actions = ("make_active",)
    # Django 6 has this default; until then it warns at every form.
    formfield_overrides = {URLField: {"assume_scheme": "https"}}
    fieldsets = (
        (None, {"fields": ("id", "display_name", "description", "position")}),
        ("Checkpoint", {"fields": ("hf_model_id", "revision", "local_path")}),
        (
            "Limits",
            {
                "fields": (
                    "max_duration_seconds",
                    "max_extended_seconds",
                    "recommended_duration_seconds",
                    "vram_requirement_gb",
                ),
                "description": "MUSICGEN_MAX_DURATION_SECONDS and MUSICGEN_MAX_EXTENDED_SECONDS stand above"
                " the longest durations given here.",
            },
        ),
        ("Sound", {"fields": ("sample_rate", "channels", "codebooks", "tokens_per_second", "parameters")}),
        (
            "How it is built",
            {
                "fields": _BUILT,
                "description": "Decides which adapters fit. Read from the checkpoint once it is installed.",
            },
        ),
        ("Use", {"fields": ("licence", "licence_url", "is_playable", "unplayable_reason", "is_active")}),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: ModelConfig | None = None) -> tuple[str, ...]:
        """The id is the primary key: changing it would make a second model.

        Which folders of the server are read is for those who run it, and not for whoever may add models.
        """
        fixed: tuple[str, ...] = ("is_active", *_BUILT)
        if not getattr(request.user, "is_superuser", False):
            fixed = ("local_path", *fixed)
        return ("id", *fixed) if obj is not None else fixed

    def has_delete_permission(self, request: HttpRequest, obj: ModelConfig | None = None) -> bool:
        """Not the active model, nor one that a switch is on its way to."""
        in_use = obj is not None and (obj.is_active or obj.switches.filter(open_slot=True).exists())
        return super().has_delete_permission(request, obj) and not in_use

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Without deletion in bulk, which would pass the active model by."""
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    def save_model(
        self, request: HttpRequest, obj: ModelConfig, form: ModelForm[ModelConfig], change: bool
    ) -> None:
        """Compute the memory of a checkpoint in a folder, which is there already; the hub's wait until installed."""
        super().save_model(request, obj, form, change)
        config = config_in(Path(obj.checkpoint)) if obj.local_path else None
        if facts_of_config(config):
            note_description(obj, config)

    @admin.action(description="Make active", permissions=["change"])
    def make_active(self, request: HttpRequest, queryset: QuerySet[ModelConfig]) -> None:
        """Ask for a switch to the chosen model; it becomes active once it is loaded and proven."""
        chosen = list(queryset[:2])
        if len(chosen) != 1:
            self.message_user(request, "Choose one model to make active.", messages.ERROR)
            return
        try:
            answer = request_switch(chosen[0], request.user)
        except (ModelNotPlayable, SwitchUnderWay) as refused:
            self.message_user(request, str(refused), messages.ERROR)
            return
        self.message_user(request, answer.sentence, messages.SUCCESS)


@admin.action(description="Add to models")
def add_to_models(
    config_admin: admin.ModelAdmin[UserModelConfig], request: HttpRequest, queryset: QuerySet[UserModelConfig]
) -> None:
    """Make a model of each chosen MusicGen config, as its newest version says."""
    if not request.user.has_perm("registry.add_modelconfig"):
        config_admin.message_user(request, "You may not add models. Ask for that permission.", messages.ERROR)
        return
    for saved in queryset:
        try:
            addition = add_config(model_id=saved.model_id, config=saved.current.as_config())
        except (NotAddable, CalculatorError) as refused:
            config_admin.message_user(request, str(refused), messages.ERROR)
        else:
            config_admin.message_user(request, addition.sentence, messages.SUCCESS)


register_config_action(add_to_models)
