"""The form of a saved config: a new text is checked and becomes a new version, or the reasons stand at the field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django import forms
from django.contrib.auth.models import User

from gated_configs.memory import CalculatorError, InvalidConfig
from gated_configs.memory.validation import MAX_BYTES
from gated_configs.models import UserModelConfig
from gated_configs.services.curation import take_over
from gated_configs.services.differences import readable_json
from gated_configs.services.model_ids import InvalidModelId, normalised_id
from gated_configs.services.submission import Submitted
from gated_configs.wording import spoken_bytes

if TYPE_CHECKING:
    _ModelForm = forms.ModelForm[UserModelConfig]
else:
    _ModelForm = forms.ModelForm  # takes a type argument in the stubs only

#: A longer text is not put into the field: browsers edit it slowly, and forms carry no more than this.
MAX_EDITED_CHARACTERS: Final = 500_000


class ConfigForm(_ModelForm):
    """Makes a version from a text or a file; one equal to the newest version changes nothing."""

    content = forms.CharField(
        label="config.json",
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 30, "cols": 100, "spellcheck": "false"}),
        help_text="A change makes a new version. What is shared or verified stays at the version it was given for.",
    )
    file = forms.FileField(
        label="or a file",
        required=False,
        help_text=f"Taken instead of the text; up to {spoken_bytes(MAX_BYTES)}.",
    )
    result: Submitted | None = None
    #: Who edits: set by the admin.
    user: User

    class Meta:
        model = UserModelConfig
        fields = ("model_id",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance._state.adding:
            return
        current = self.instance.current
        text = readable_json(current.as_config())
        if len(text) <= MAX_EDITED_CHARACTERS:
            self.initial["content"] = text
        else:
            self.fields[
                "content"
            ].help_text = f"Too long to be edited here ({spoken_bytes(current.size_bytes)}). Give a file to make a new version."

    def clean_model_id(self) -> str:
        """An id or an address, as everywhere."""
        try:
            return normalised_id(self.cleaned_data["model_id"])
        except InvalidModelId as refused:
            raise forms.ValidationError(str(refused), code=refused.code) from refused

    def clean(self) -> dict[str, Any]:
        """Save, so that what is refused is told at the field. Nothing is kept of a refused one."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        file = cleaned.get("file")
        field = "file" if file else "content"
        if file and file.size > MAX_BYTES:
            self.add_error(
                "file", f"The file has {spoken_bytes(file.size)}; up to {spoken_bytes(MAX_BYTES)} are read."
            )
            return cleaned
        text: str | bytes = file.read() if file else cleaned.get("content", "")
        is_new = self.instance._state.adding
        if not text and not is_new:
            return cleaned
        try:
            self.result = take_over(
                config=None if is_new else self.instance,
                model_id=cleaned["model_id"] if is_new else self.instance.model_id,
                text=text,
                by=self.user,
            )
        except InvalidConfig as refused:
            for problem in refused.problems:
                self.add_error(field, forms.ValidationError(problem.sentence, code=problem.code))
        except CalculatorError as refused:
            self.add_error(field, forms.ValidationError(str(refused), code=refused.code))
        return cleaned

    def _post_clean(self) -> None:
        """The rows were checked and saved as a submission: there is none to check here."""
