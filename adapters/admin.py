"""Curate adapters: edit what is said of them, see verdicts and proofs, import a zip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html_join

from adapters.events import AdaptersChanged
from adapters.format.errors import AdapterRefused
from adapters.models import MAX_STRENGTH, Adapter, AdapterProof
from adapters.services.editing import Wording, checked
from adapters.services.importing import ImportResult, ZipSource, import_adapter
from adapters.services.uploads import zip_of
from gated_configs.wording import spoken_bytes
from registry.events import send_on_commit
from registry.services import ModelNotFound, list_models

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Adapter]
    _ModelForm = forms.ModelForm[Adapter]
    _ProofInline = admin.TabularInline[AdapterProof, Adapter]
else:  # these take type arguments in the stubs only
    _ModelAdmin = admin.ModelAdmin
    _ModelForm = forms.ModelForm
    _ProofInline = admin.TabularInline


class AdapterForm(_ModelForm):
    """Edits one; the model itself refuses a base that its shapes contradict."""

    class Meta:
        model = Adapter
        fields = ("name", "version", "description", "trigger_words", "default_strength", "base_model")

    def clean(self) -> dict[str, Any]:
        """The same rules for what is said as everywhere."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        names = ("name", "version", "description", "trigger_words", "default_strength")
        said = {name: cleaned.get(name) for name in names}
        try:
            cleaned |= checked(Wording(**said))
        except AdapterRefused as refused:
            self.add_error(str(refused.facts["field"]), refused.message)
        return cleaned


class ImportForm(_ModelForm):
    """Imports one from a zip. What is left empty is taken from the zip."""

    file = forms.FileField(label="Zip", help_text="The folder that training wrote, as a zip.")
    name = forms.CharField(max_length=120, required=False, help_text="After the zip, if empty.")
    version = forms.CharField(max_length=40, required=False, help_text="1.0 if empty.")
    default_strength = forms.FloatField(min_value=0, max_value=MAX_STRENGTH, required=False, initial=1.0)
    result: ImportResult | None = None
    user: User | None = None

    class Meta:
        model = Adapter
        fields = ("description", "trigger_words", "base_model")

    def clean(self) -> dict[str, Any]:
        """Import, so that what is refused is told at the form. Nothing is kept of a refused one."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        base = cleaned.get("base_model")
        try:
            with zip_of(cleaned["file"]) as path:
                self.result = import_adapter(
                    source=ZipSource(path, cleaned["file"].name),
                    imported_by=self.user,
                    name=cleaned["name"] or None,
                    version=cleaned["version"] or None,
                    base_model=base.pk if base is not None else None,
                    description=cleaned["description"],
                    trigger_words=cleaned["trigger_words"],
                    default_strength=cleaned["default_strength"],
                )
        except AdapterRefused as refused:
            field = refused.facts.get("field")
            self.add_error(str(field) if field in self.fields else "file", refused.message)
        except ModelNotFound as problem:
            self.add_error("base_model", str(problem))
        return cleaned

    def _post_clean(self) -> None:
        """The row was checked and saved by the import: there is none to check here."""


class ProofInline(_ProofInline):
    """What the engine measured, to read."""

    model = AdapterProof
    extra = 0
    can_delete = False
    fields = (
        "model",
        "status",
        "tensors_matched",
        "tensors_expected",
        "logit_change",
        "logit_change_at_zero",
        "is_restored",
        "error_message",
        "updated_at",
    )
    readonly_fields = fields

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only the engine proves."""
        return False


@admin.register(Adapter)
class AdapterAdmin(_ModelAdmin):
    """Adapters come in through the import alone, and go on the Adapters page, which tells what depends on them."""

    list_display = ("name", "version", "base_model", "base_model_name", "rank", "size", "source", "is_sound")
    list_filter = ("source", "base_model")
    search_fields = ("name", "version", "description", "trigger_words", "base_model_name")
    list_select_related = ("base_model",)
    facts = (
        "verdicts",
        "rank",
        "alpha",
        "variants",
        "notes",
        "tensor_count",
        "size",
        "base_model_name",
        "broken_reason",
        "source",
        "source_name",
        "imported_by",
        "sha256",
        "created_at",
    )

    def get_form(
        self, request: HttpRequest, obj: Adapter | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        """Another form for a new one: its facts come from a zip."""
        if obj is not None:
            kwargs["form"] = AdapterForm
            return super().get_form(request, obj, change, **kwargs)
        user = cast(User, request.user)
        return type("ImportForm", (ImportForm,), {"user": user})

    def get_fieldsets(self, request: HttpRequest, obj: Adapter | None = None) -> Any:
        """What is said of it, and what its files tell."""
        said = ("name", "version", "description", "trigger_words", "default_strength", "base_model")
        if obj is None:
            return ((None, {"fields": ("file", *said)}),)
        return ((None, {"fields": said}), ("From its files", {"fields": self.facts}))

    def get_readonly_fields(self, request: HttpRequest, obj: Adapter | None = None) -> tuple[str, ...]:
        """Everything that the files tell."""
        return () if obj is None else self.facts

    def get_inlines(self, request: HttpRequest, obj: Adapter | None) -> Any:
        """Proofs of one that is there."""
        return [] if obj is None else [ProofInline]

    def has_delete_permission(self, request: HttpRequest, obj: Adapter | None = None) -> bool:
        """Deleting one cancels the jobs that wait for it, which is done on the Adapters page."""
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Adapter]:
        """With the importer, who is shown."""
        return super().get_queryset(request).select_related("imported_by")

    def save_form(self, request: HttpRequest, form: Any, change: bool) -> Any:
        """A new one was saved by its import."""
        if change:
            return super().save_form(request, form, change)
        if not form.result.created:
            messages.info(request, f"{form.result.adapter} was there already; nothing was changed.")
        form.instance = form.result.adapter
        form.save_m2m = lambda: None
        return form.result.adapter

    def save_model(self, request: HttpRequest, obj: Adapter, form: Any, change: bool) -> None:
        """Save what was edited."""
        if change:
            super().save_model(request, obj, form, change)
            send_on_commit(AdaptersChanged())

    @admin.display(description="size")
    def size(self, adapter: Adapter) -> str:
        """Of the weights."""
        return spoken_bytes(adapter.file_bytes)

    @admin.display(description="sound", boolean=True)
    def is_sound(self, adapter: Adapter) -> bool:
        """Whether it can be used at all."""
        return not adapter.is_broken

    @admin.display(description="verdicts")
    def verdicts(self, adapter: Adapter) -> str:
        """One line for each model that can be played."""
        lines = [(model, adapter.judge(model)) for model in list_models() if model.is_playable]
        return format_html_join(
            "",
            "{}: {} ({})<br>",
            ((model, judgement.verdict.replace("_", " "), judgement.reason) for model, judgement in lines),
        )
