"""An action carried out for a page: figures, a grid or a table; or what is wrong, and where it is to be shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from django.contrib.auth.models import User
from django.http import HttpResponse

from gated_configs.memory import Architecture
from gated_configs.pages import downloads
from gated_configs.pages.asked import MAX_MODELS, PANEL_OFF, Asked, question_of
from gated_configs.pages.compared import Compared, compared_of, what_happened
from gated_configs.pages.figures import Figures, figures_of, type_words_of
from gated_configs.pages.form import field_error
from gated_configs.pages.grid import Grid, grid_of
from gated_configs.pages.panel import Panel, panel_of
from gated_configs.pages.source import source_line
from gated_configs.refusals import Refusal, refusal_of
from gated_configs.services.analysis import analyse
from gated_configs.services.calculation import calculate
from gated_configs.services.comparison import MOST_MODELS, Comparison, compare
from gated_configs.services.model_ids import InvalidModelId, normalised_id
from gated_configs.services.questions import THIS_MACHINE, InvalidQuestion, this_machine

#: Against what a grid is held where nothing is chosen and this machine cannot be told.
USUAL_CARD: Final = "rtx-4090"


@dataclass(frozen=True)
class Answer:
    """At most one of figures, grid and table. `errors` stand at fields of the form, `panel` asks for a config."""

    asked: Asked
    status: int = 200
    figures: Figures | None = None
    grid: Grid | None = None
    table: Compared | None = None
    architecture: Architecture | None = None
    is_music: bool = False
    panel: Panel | None = None
    errors: dict[str, str] = field(default_factory=dict)
    retry_after_seconds: int | None = None
    download: HttpResponse | None = None

    @property
    def has_result(self) -> bool:
        """Whether there is anything to show below the form."""
        return self.figures is not None or self.grid is not None or self.table is not None


def answer(*, user: Any, asked: Asked, as_csv: bool = False) -> Answer:
    """Do what is asked. Never raises for what a person can get wrong."""
    if not asked.action:
        return Answer(asked)
    work = {"calculate": _calculated, "analyse": _analysed, "compare": _compared}[asked.action]
    try:
        return work(user, asked, as_csv)
    except Exception as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        return _refused(asked, refusal, error)


def _calculated(user: User, asked: Asked, as_csv: bool) -> Answer:
    done = calculate(user=user, model_id=asked.model, question=question_of(asked))
    if as_csv:
        return Answer(asked, download=downloads.calculation_csv(done))
    asked = asked.changed(models=(done.model_id,), panel=asked.panel)
    return Answer(
        asked,
        figures=figures_of(done, asked, source_line(done.found, asked, user)),
        architecture=done.architecture,
        is_music=done.architecture.music is not None,
        panel=_wanted_panel(asked),
    )


def _analysed(user: User, asked: Asked, as_csv: bool) -> Answer:
    if "gpu" not in asked.options and "memory_gb" not in asked.options:
        # A grid without a card has no verdicts, and the address says against which it was held.
        usual = THIS_MACHINE if this_machine() is not None else USUAL_CARD
        asked = asked.changed(panel=asked.panel, options={"gpu": usual})
    done = analyse(user=user, model_id=asked.model, question=question_of(asked))
    if as_csv:
        return Answer(asked, download=downloads.analysis_csv(done))
    asked = asked.changed(models=(done.model_id,), panel=asked.panel)
    words = type_words_of(done.architecture)
    return Answer(
        asked,
        grid=grid_of(done, asked, words, source_line(done.found, asked, user)),
        architecture=done.architecture,
        panel=_wanted_panel(asked),
    )


def _compared(user: User, asked: Asked, as_csv: bool) -> Answer:
    if len(asked.models) > MOST_MODELS:
        sentence = f"Up to {MOST_MODELS} models can be compared. Remove one first."
        return Answer(asked.changed(models=asked.models[:MAX_MODELS]), status=400, errors={"model": sentence})
    done = compare(user=user, model_ids=asked.models, question=question_of(asked))
    if as_csv:
        return Answer(asked, download=downloads.comparison_csv(done))
    panel = _panel_in_turn(asked, done)
    waiting = panel.model_id if panel is not None else ""
    return Answer(asked, table=compared_of(done, asked, waiting=waiting), panel=panel)


def _panel_in_turn(asked: Asked, done: Comparison) -> Panel | None:
    """The panel of the model whose row asks for it, else of the first that needs one; none once it was put away."""
    needing = [row.error for row in done.rows if row.error is not None and row.error.requires_config]
    if asked.panel == PANEL_OFF or not needing:
        return None
    chosen = next((refusal for refusal in needing if refusal.facts["model_id"] == asked.panel), needing[0])
    count = f"1 of {len(needing)} that need one" if len(needing) > 1 else ""
    return panel_of(
        asked,
        model_id=str(chosen.facts["model_id"]),
        code=chosen.code,
        sentence=what_happened(chosen),
        count=count,
    )


def _wanted_panel(asked: Asked) -> Panel | None:
    """The panel for another config, where the address asks for it."""
    if not asked.panel or asked.panel == PANEL_OFF:
        return None
    try:
        return panel_of(asked, model_id=normalised_id(asked.panel))
    except InvalidModelId:
        return None


def _refused(asked: Asked, refusal: Refusal, error: Exception) -> Answer:
    if refusal.requires_config and asked.panel != PANEL_OFF:
        model_id = str(refusal.facts["model_id"])
        panel = panel_of(asked, model_id=model_id, code=refusal.code, sentence=what_happened(refusal))
        return Answer(asked, status=refusal.status, panel=panel)
    if isinstance(error, InvalidQuestion):
        name, sentence = field_error(error.field, refusal.sentence)
    else:
        name, sentence = "model", refusal.sentence
    return Answer(
        asked,
        status=refusal.status,
        errors={name: sentence},
        retry_after_seconds=refusal.retry_after_seconds,
    )
