"""A switch as pages show it: stages, times, one sentence. Reads rows, writes none.

The same card serves the settings page, the dialog, a push over the socket and the API's message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from django.utils import timezone

from gated_configs.wording import gigabytes, rough_seconds, spoken_seconds
from registry.models import ModelSwitch, SwitchStage
from registry.services.switches import expected_seconds

_STEPS: Final = (
    (SwitchStage.DOWNLOADING, "Download"),
    (SwitchStage.VERIFYING, "Verify"),
    (SwitchStage.WAITING, "Wait for jobs"),
    (SwitchStage.LOADING, "Load and prove"),
)
_LINES: Final = {
    SwitchStage.QUEUED: "Waiting for the engine",
    SwitchStage.DOWNLOADING: "Downloading",
    SwitchStage.VERIFYING: "Verifying",
    SwitchStage.WAITING: "Waiting for running jobs",
    SwitchStage.LOADING: "Loading",
    SwitchStage.READY: "Ready",
    SwitchStage.FAILED: "Failed",
    SwitchStage.CANCELLED: "Cancelled",
}


@dataclass(frozen=True)
class SwitchStep:
    """One line of the stage list. `state` is done, now, to-come or skipped."""

    label: str
    state: str
    time_line: str


@dataclass(frozen=True)
class SwitchCard:
    """A switch in words. `state` is running, ready, failed or cancelled."""

    switch: ModelSwitch
    model_name: str
    previous_name: str
    state: str
    percent: float | None
    status_line: str
    steps: list[SwitchStep]
    can_cancel: bool
    message: str
    error_detail: str
    elapsed_line: str
    elapsed_seconds: float
    remaining_seconds: float | None


def switch_card(switch: ModelSwitch) -> SwitchCard:
    """Put a switch into words."""
    stage = SwitchStage(switch.stage)
    here = max(0.0, (timezone.now() - switch.stage_started_at).total_seconds())
    remaining = _remaining_seconds(switch, here) if switch.is_open else None
    percent = None if switch.fraction is None or not switch.is_open else 100 * switch.fraction
    return SwitchCard(
        switch=switch,
        model_name=switch.model.display_name,
        previous_name=switch.previous.display_name if switch.previous else "",
        state="running" if switch.is_open else str(stage),
        percent=percent,
        status_line=_status_line(switch, stage, percent, remaining),
        steps=_steps(switch, stage, here),
        can_cancel=switch.can_be_cancelled and switch.cancel_requested_at is None,
        message=switch.message,
        error_detail=switch.error_detail,
        elapsed_line=f"{spoken_seconds(switch.elapsed_seconds)} elapsed",
        elapsed_seconds=switch.elapsed_seconds,
        remaining_seconds=remaining,
    )


def _status_line(
    switch: ModelSwitch, stage: SwitchStage, percent: float | None, remaining: float | None
) -> str:
    if switch.is_open and switch.cancel_requested_at is not None and switch.can_be_cancelled:
        return "Cancelling"
    parts = [_LINES[stage]]
    if stage == SwitchStage.DOWNLOADING and switch.bytes_total:
        parts.append(f"{gigabytes(switch.bytes_done or 0)} of {gigabytes(switch.bytes_total)}")
    elif percent is not None:
        parts.append(f"{round(percent)}%")
    if remaining is not None and remaining >= 1:
        parts.append(f"about {rough_seconds(remaining)} left")
    return " · ".join(parts)


def _remaining_seconds(switch: ModelSwitch, here: float) -> float | None:
    """Of this stage: from its own pace where a fraction is known, else from the record of earlier switches."""
    if switch.fraction and here >= 1:
        return here * (1 - switch.fraction) / switch.fraction
    expected = expected_seconds(switch.model, switch.stage)
    return max(0.0, expected - here) if expected is not None else None


def _steps(switch: ModelSwitch, stage: SwitchStage, here: float) -> list[SwitchStep]:
    order = [step for step, _ in _STEPS]
    reached = order.index(stage) if stage in order else None
    steps = []
    for number, (step, label) in enumerate(_STEPS):
        taken = switch.stage_seconds.get(step)
        if stage == step:
            state, line = "now", spoken_seconds(round(here))
        elif taken is not None:
            state, line = "done", spoken_seconds(taken)
        elif switch.is_open and (reached is None or number > reached):
            expected = expected_seconds(switch.model, step)
            state, line = "to-come", f"about {rough_seconds(expected)}" if expected else ""
        else:
            state, line = "skipped", ""
        steps.append(SwitchStep(label, state, line))
    return steps
