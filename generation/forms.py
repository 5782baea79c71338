"""The studio's form. It only turns text into numbers; what is allowed is decided by the submission service."""

from __future__ import annotations

import re
from typing import Any

from django import forms

from generation.services import submission
from generation.services.submission import GenerationRefused, GenerationRequest, Range

# Numbers as people type them. Python's own parser also takes "1_000" and Arabic digits. What is a number but not
# a finite one passes, so that the service refuses it in the words that API and command use.
_NUMBER = re.compile(
    r"[+-]?((\d{1,400}(\.\d{0,20})?|\.\d{1,20})(e[+-]?\d{1,3})?|nan|inf(inity)?)", re.ASCII | re.IGNORECASE
)


class PromptField(forms.Field):
    """Text as it came. Django's own field refuses some of it, in words that are not the service's."""

    widget = forms.Textarea

    def to_python(self, value: Any) -> str:
        """The text, empty when the form did not send any."""
        return value or ""


class NumberField(forms.Field):
    """A number, or None when left empty. `whole` asks for an integer."""

    widget = forms.NumberInput

    def __init__(self, *, sentence: str, whole: bool = False, **options: Any) -> None:
        self.sentence = sentence
        self.whole = whole
        super().__init__(required=False, **options)

    def to_python(self, value: Any) -> float | int | None:
        """The number, with a decimal comma allowed. Raises ValidationError with the field's sentence."""
        text = str(value or "").strip().replace(",", ".")
        if not text:
            return None
        if not _NUMBER.fullmatch(text):
            raise forms.ValidationError(self.sentence)
        if self.whole and re.fullmatch(r"[+-]?\d+", text):
            return int(text)
        number = float(text)
        return int(number) if self.whole and number.is_integer() else number


def _number_field(allowed: Range) -> NumberField:
    kind = "a whole number" if allowed.whole else "a number"
    return NumberField(
        label=allowed.label,
        whole=allowed.whole,
        sentence=f"{allowed.label} must be {kind} from {allowed.minimum:g} to {int(allowed.maximum)}.",
    )


class GenerationForm(forms.Form):
    """Fields of the studio. An empty number means the default, an empty seed a new one."""

    prompt = PromptField(required=False)
    duration_seconds = NumberField(label="Duration", sentence="Write the duration as a number of seconds.")
    seed = _number_field(submission.SEED)
    guidance_scale = _number_field(submission.GUIDANCE_SCALE)
    temperature = _number_field(submission.TEMPERATURE)
    top_k = _number_field(submission.TOP_K)
    top_p = _number_field(submission.TOP_P)
    variations = NumberField(label="Variations", whole=True, sentence="Variations must be a whole number.")

    def as_request(self) -> GenerationRequest:
        """What the person asks for. Only after `is_valid()`."""
        return GenerationRequest(**self.cleaned_data)

    def refuse(self, refused: GenerationRefused) -> None:
        """Show each refusal at its field."""
        for name, refusal in refused.refusals.items():
            self.add_error(name if name in self.fields else None, refusal.message)
