"""The studio's form. It only turns text into numbers; what is allowed is decided by the submission service."""

from __future__ import annotations

import re
from typing import Any

from django import forms

from generation.services import parameters
from generation.services.job_adapters import AdapterWish
from generation.services.parameters import Range
from generation.services.refusals import GenerationRefused
from generation.services.submission import GenerationRequest

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


class AdaptersWidget(forms.Widget):
    """Reads `adapter`, once for each chosen id, and `strength-ID` beside it. The studio's template draws the group."""

    def value_from_datadict(self, data: Any, files: Any, name: str) -> list[tuple[str, str]]:
        """Id and strength of each chosen adapter, as text. An empty id stands for none."""
        chosen = data.getlist("adapter") if hasattr(data, "getlist") else []
        return [(text, data.get(f"strength-{text}", "")) for text in chosen if text.strip()]

    def value_omitted_from_data(self, data: Any, files: Any, name: str) -> bool:
        """Never: a form without any is one with none."""
        return False


class AdaptersField(forms.Field):
    """The chosen adapters, each with its strength; an empty strength is the adapter's own."""

    widget = AdaptersWidget

    def to_python(self, value: Any) -> tuple[AdapterWish, ...]:
        """What is asked for. Raises ValidationError for what is no number."""
        strength = _number_field(parameters.STRENGTH)
        wishes = []
        for text, wanted in value or ():
            if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
                raise forms.ValidationError("Choose the adapters from the list.")
            wishes.append(AdapterWish(int(text), strength.to_python(wanted)))
        return tuple(wishes)


class GenerationForm(forms.Form):
    """Fields of the studio. An empty number means the default, an empty seed a new one."""

    prompt = PromptField(required=False)
    duration_seconds = NumberField(label="Duration", sentence="Write the duration as a number of seconds.")
    seed = _number_field(parameters.SEED)
    guidance_scale = _number_field(parameters.GUIDANCE_SCALE)
    temperature = _number_field(parameters.TEMPERATURE)
    top_k = _number_field(parameters.TOP_K)
    top_p = _number_field(parameters.TOP_P)
    variations = NumberField(label="Variations", whole=True, sentence="Variations must be a whole number.")
    adapters = AdaptersField(required=False)
    extend = forms.BooleanField(required=False)
    continue_take = NumberField(
        label="Take to go on from", whole=True, sentence="Choose the take to go on from in the library."
    )
    continue_clip = NumberField(
        label="Clip to go on from", whole=True, sentence="Bring in the clip to go on from again."
    )
    continue_from_seconds = NumberField(
        label="Moment to go on from", sentence="Write the moment to go on from as a number of seconds."
    )

    melody_clip = NumberField(
        label="Clip to follow", whole=True, sentence="Bring in the clip to follow again."
    )

    def as_request(self) -> GenerationRequest:
        """What the person asks for. Only after `is_valid()`."""
        return GenerationRequest(**self.cleaned_data)

    def refuse(self, refused: GenerationRefused) -> None:
        """Show each refusal at its field."""
        for name, refusal in refused.refusals.items():
            self.add_error(name if name in self.fields else None, refusal.message)
