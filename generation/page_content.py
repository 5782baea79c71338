"""What an open page is sent when something changed: partials out of band, each read from the rows as they are now.

Knows no socket. What the page shows is its `view`: studio, library, adapters, adapter-ID, adapter-ID-TRIAL, settings or
shell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from adapters.events import AdaptersChanged
from generation import cards
from generation.adapter_choices import adapter_choices, choices_context
from generation.adapter_pages import push
from generation.engine_state import engine_state
from generation.events import BoardChanged, JobProgressed, TakesChanged
from generation.model_limits import limits_context
from generation.models import Job
from generation.partials import announcement, out_of_band, reading
from generation.settings_page import settings_context
from generation.switch_card import SwitchCard, switch_card
from registry.events import EngineChanged, SwitchChanged
from registry.services import last_switch


class Shared:
    """What is the same for everybody, read once for all pages that are told together."""

    @cached_property
    def chip(self) -> str:
        """The engine's state."""
        return out_of_band("generation/_engine_chip.html", {"engine": engine_state()})

    @cached_property
    def queue(self) -> cards.Queue:
        """Who waits for how long."""
        return cards.Queue()


@dataclass
class Changes:
    """What may have changed since a page was last told. Said twice it is still one thing to tell."""

    engine: bool = False
    switch: bool = False
    #: A switch ended, so that the active model may be another one.
    active_model: bool = False
    adapters: bool = False
    board: bool = False
    takes: bool = False
    #: Jobs that are further on.
    jobs: set[int] = field(default_factory=set)
    #: Sentences for people who listen to the page instead of looking at it; none may be lost.
    announcements: list[str] = field(default_factory=list)

    @classmethod
    def everything(cls) -> Changes:
        """All that a page shows: its first message."""
        return cls(
            engine=True,
            switch=True,
            active_model=True,
            adapters=True,
            board=True,
            takes=True,
        )

    @classmethod
    def heard(cls, hint: dict[str, Any]) -> Changes:
        """What a hint says. Raises KeyError for one that is none."""
        return _HEARD[hint["type"]](hint)

    def add(self, other: Changes) -> None:
        """These and the others."""
        for flag in ("engine", "switch", "active_model", "adapters", "board", "takes"):
            setattr(self, flag, getattr(self, flag) or getattr(other, flag))
        self.jobs |= other.jobs
        self.announcements += other.announcements

    def __bool__(self) -> bool:
        return self != Changes()


_HEARD: dict[str, Callable[[dict[str, Any]], Changes]] = {
    BoardChanged.type: lambda hint: Changes(
        board=True, announcements=[hint["announcement"]] if hint["announcement"] else []
    ),
    JobProgressed.type: lambda hint: Changes(jobs={hint["job_id"]}),
    TakesChanged.type: lambda hint: Changes(takes=True),
    EngineChanged.type: lambda hint: Changes(engine=True),
    AdaptersChanged.type: lambda hint: Changes(adapters=True),
    SwitchChanged.type: lambda hint: Changes(switch=True, active_model=hint["finished"]),
}


def render(changes: Changes, view: str, user: Any, shared: Shared) -> str:
    """The partials that tell of these changes; empty where they are nothing to this view."""
    html = ""
    if changes.engine or changes.switch:
        html += shared.chip
    if changes.switch:
        html += _switch(view, user, active_model=changes.active_model)
    if changes.adapters or changes.active_model:
        html += _adapters(view, user)
    if view == "studio":
        html += _studio(changes, user, shared)
    elif changes.board or changes.takes or changes.jobs:
        html += push.comparison(view, user)
    if changes.announcements:
        html += announcement(" ".join(dict.fromkeys(changes.announcements)))
    return html


def _switch(view: str, user: Any, *, active_model: bool) -> str:
    if view not in ("settings", "studio") and not view.startswith("adapter-"):
        return ""
    context = {"read_at": reading(), "switch_card": _switch_card()}
    html = out_of_band("registry/_switch_status.html", context)
    if active_model and view == "settings":
        html += out_of_band("registry/_models.html", settings_context(user))
    elif active_model and view == "studio":
        html += out_of_band("generation/_model_limits.html", limits_context())
    return html


def _switch_card() -> SwitchCard | None:
    switch = last_switch()
    return switch_card(switch) if switch is not None else None


def _adapters(view: str, user: Any) -> str:
    """What the page says of adapters, which hangs on the active model."""
    if view == "studio":
        return out_of_band("generation/_adapter_choices.html", choices_context(user, adapter_choices()))
    return push.verdicts(view, user)


def _studio(changes: Changes, user: Any, shared: Shared) -> str:
    html = ""
    if changes.board:
        html += out_of_band("generation/_queue.html", cards.queue_context(user, shared.queue))
    elif changes.jobs:
        jobs = Job.objects.for_user(user).on_the_board().select_related("model").filter(pk__in=changes.jobs)
        html += "".join(
            out_of_band("generation/_job_card.html", {"card": cards.card_of(job)}) for job in jobs
        )
    if changes.takes:
        context = {"takes": cards.recent_takes(user), "examples": cards.EXAMPLES}
        html += out_of_band("generation/_takes.html", context)
    return html
