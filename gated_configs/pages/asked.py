"""What a page is asked, between an address and the services: read leniently, written canonically.

The address alone reproduces the page, so it holds only what was really chosen.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import urlencode

from django.http import QueryDict
from django.urls import reverse

from gated_configs.memory import WEIGHT_FORMATS, find_card
from gated_configs.memory.dtypes import format_name
from gated_configs.services.questions import THIS_MACHINE, InvalidQuestion, Question

ACTIONS: Final = ("calculate", "analyse", "compare")
#: Options of the form, in the order of the address.
OPTIONS: Final = (
    "precision",
    "cache_precision",
    "activation_precision",
    "batch_size",
    "seq_length",
    "duration_seconds",
    "guidance",
    "encoder_tokens",
    "tensor_parallel",
    "gpu",
    "memory_gb",
)
MAX_MODEL_CHARACTERS: Final = 400
MAX_OPTION_CHARACTERS: Final = 40
#: One more than can be compared, so that the comparison itself says that there are too many.
MAX_MODELS: Final = 11
#: `panel` in an address: a model whose config is to be pasted, or no panel at all.
PANEL_OFF: Final = "off"

_WHOLE: Final = re.compile(r"(\d{1,15})(k?)", re.ASCII | re.IGNORECASE)
_DECIMAL: Final = re.compile(r"\d{1,15}(\.\d{0,15})?|\.\d{1,15}", re.ASCII)
_SEPARATORS: Final = re.compile(r"[\s_'\u202f]")
_BETWEEN_MODELS: Final = re.compile(r"[\s,;]+")
_WHOLE_NUMBERS: Final = {
    "batch_size": "How many at once",
    "seq_length": "The context",
    "encoder_tokens": "The length of the input",
    "tensor_parallel": "The number of cards",
}


@dataclass(frozen=True)
class Asked:
    """An action on some models with options, each as it was typed. `panel` is a model id, "off" or empty."""

    action: str = ""
    models: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    panel: str = ""

    @property
    def model(self) -> str:
        """The one model of calculate and analyse."""
        return self.models[-1] if self.models else ""

    def changed(
        self,
        *,
        action: str | None = None,
        models: tuple[str, ...] | None = None,
        panel: str = "",
        options: Mapping[str, str] | None = None,
    ) -> Asked:
        """The same with something changed; an empty option is taken away."""
        merged = {**self.options, **(options or {})}
        return replace(
            self,
            action=self.action if action is None else action,
            models=self.models if models is None else models,
            options={name: merged[name] for name in OPTIONS if merged.get(name)},
            panel=panel,
        )

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Everything as pairs for an address or for hidden fields."""
        pairs = [("action", self.action)] if self.action else []
        pairs += [("model", model) for model in self.models]
        pairs += list(self.options.items())
        return pairs + ([("panel", self.panel)] if self.panel else [])

    @property
    def address(self) -> str:
        """The path that reproduces this."""
        path = reverse("memory:page")
        # Slashes and colons are plain in a query; an id stays readable.
        return f"{path}?{urlencode(self.pairs, safe='/:')}" if self.pairs else path

    @property
    def csv_address(self) -> str:
        """The same as a table to download."""
        return f"{reverse('memory:page')}?{urlencode([*self.pairs, ('format', 'csv')], safe='/:')}"


def asked_in(sent: QueryDict) -> Asked:
    """What an address or a form asks. Unknown names are left out, texts are cut to their bounds."""
    action = sent.get("action", "")
    typed = [_clean(text, MAX_MODEL_CHARACTERS) for text in sent.getlist("model")[: MAX_MODELS + 1]]
    if action == "compare":
        typed = [part for text in typed for part in _BETWEEN_MODELS.split(text)]
    models = tuple(dict.fromkeys(text for text in typed if text))
    options = {name: _listed(name, _clean(sent.get(name, ""), MAX_OPTION_CHARACTERS)) for name in OPTIONS}
    asked = Asked(
        action=action if action in ACTIONS and models else "",
        models=models[:MAX_MODELS],
        panel=_clean(sent.get("panel", ""), MAX_MODEL_CHARACTERS),
    )
    if asked.action in ("calculate", "analyse"):
        asked = replace(asked, models=(asked.model,))
    return asked.changed(panel=asked.panel, options=options)


def _listed(name: str, text: str) -> str:
    """A card or format by the name that the form's lists give it; what they do not have is refused later, by name."""
    with contextlib.suppress(ValueError):
        if name == "gpu" and text and text != THIS_MACHINE:
            return find_card(text).slug
        if name.endswith("precision") and text:
            return format_name(text, WEIGHT_FORMATS)
    return text


def _clean(text: str, most: int) -> str:
    """One line without characters that a database or a terminal would stumble over."""
    return "".join(character for character in text[:most] if character.isprintable()).strip()


def question_of(asked: Asked) -> Question:
    """The options as a question. Raises InvalidQuestion naming the field that cannot be read."""
    options = asked.options
    numbers = {
        name: _whole(name, noun, options[name]) for name, noun in _WHOLE_NUMBERS.items() if name in options
    }
    memory_gb = _decimal("memory_gb", "The memory", "GB", options.get("memory_gb", ""))
    gpu = options.get("gpu")
    return Question(
        precision=options.get("precision"),
        cache_precision=options.get("cache_precision"),
        activation_precision=options.get("activation_precision"),
        duration_seconds=_decimal(
            "duration_seconds", "The duration", "seconds", options.get("duration_seconds", "")
        ),
        guidance=options.get("guidance") != "off",
        gpu=gpu if memory_gb is None else None,
        memory_bytes=None if memory_gb is None else round(memory_gb * 10**9),
        batch_size=numbers.get("batch_size", 1),
        seq_length=numbers.get("seq_length"),
        encoder_tokens=numbers.get("encoder_tokens"),
        tensor_parallel=numbers.get("tensor_parallel", 1),
    )


def _whole(name: str, noun: str, text: str) -> int:
    """ "8192", "8,192", "8 192" and "8k" are the same number."""
    found = _WHOLE.fullmatch(_SEPARATORS.sub("", text).replace(",", ""))
    if found is None:
        raise InvalidQuestion(name, f"{noun} is a whole number of 1 or more, such as 8 or 8192.")
    return int(found[1]) * (1024 if found[2] else 1)


def _decimal(name: str, noun: str, unit: str, text: str) -> float | None:
    if not text:
        return None
    found = _DECIMAL.fullmatch(_SEPARATORS.sub("", text).replace(",", "."))
    value = float(found[0]) if found is not None else math.nan
    if not value > 0:
        raise InvalidQuestion(name, f"{noun} is a number of {unit} above 0, such as 12 or 24.5.")
    return value
