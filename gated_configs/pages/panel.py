"""The panel that asks for a config: why, what to do, and the action that waits for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from gated_configs.memory import Problem
from gated_configs.memory.validation import MAX_BYTES
from gated_configs.pages.asked import PANEL_OFF, Asked
from gated_configs.pages.units import short_name
from gated_configs.services.lookup import MODEL_GATED
from gated_configs.services.model_ids import hub_page
from gated_configs.wording import spoken_bytes

_BUTTONS: Final = {
    "calculate": "Save and calculate",
    "analyse": "Save and analyse",
    "compare": "Save and compare",
}
_PLACEHOLDER: Final = '{\n  "architectures": ["…ForCausalLM"],\n  "hidden_size": …\n}'
_OPERATOR_HINT: Final = (
    "An operator can set HF_TOKEN to a token with access instead; then nobody has to paste."
)


@dataclass(frozen=True)
class Panel:
    """Everything the panel's template prints. `is_alone` where the result below is of something else."""

    model_id: str
    icon: str
    title: str
    sentence: str
    hidden: list[tuple[str, str]]
    address: str
    model_page: str
    config_page: str
    button: str
    cancel_address: str
    is_alone: bool
    reason: str
    count: str = ""
    text: str = ""
    refusal: str = ""
    problems: tuple[Problem, ...] = ()
    missing: tuple[str, ...] = ()
    placeholder: str = _PLACEHOLDER
    max_bytes: int = MAX_BYTES
    max_size: str = spoken_bytes(MAX_BYTES)
    token_hint: str = ""

    def refused(
        self, problems: tuple[Problem, ...], *, missing: tuple[str, ...] = (), text: str = ""
    ) -> Panel:
        """The same with what is wrong with the text in it."""
        refusal = "This cannot be used yet." if len(problems) == 1 else f"{len(problems)} things are wrong."
        return replace(self, refusal=refusal, problems=problems, missing=missing, text=text)


def panel_of(asked: Asked, *, model_id: str, code: str = "", sentence: str = "", count: str = "") -> Panel:
    """The panel for a model whose look-up failed with `code`, or, without one, for another config of it."""
    page = hub_page(model_id)
    name = short_name(model_id)
    titles = {MODEL_GATED: f"{name} needs its config.json", "": f"Another config of {name}"}
    sentences = {
        MODEL_GATED: f"{model_id} is gated: the hub shows its config.json only to people with access.",
        "": "What you paste here takes the place of what is used now, for you alone.",
    }
    plain = asked.changed()
    is_failure = bool(code)
    if asked.action == "compare":
        cancel = asked.changed(panel=PANEL_OFF).address
    elif is_failure:
        cancel = asked.changed(action="").address
    else:
        cancel = plain.address
    return Panel(
        model_id=model_id,
        icon="i-lock" if code == MODEL_GATED else "i-recipe",
        title=titles.get(code, f"{name} cannot be looked up now"),
        sentence=sentence or sentences.get(code, "The hub cannot be reached."),
        hidden=plain.pairs,
        address=asked.changed(panel=model_id).address,
        model_page=page,
        config_page=f"{page}/blob/main/config.json",
        button=_BUTTONS.get(asked.action, "Save"),
        cancel_address=cancel,
        is_alone=is_failure and asked.action != "compare",
        reason=code,
        count=count,
        token_hint=_OPERATOR_HINT if code == MODEL_GATED else "",
    )
