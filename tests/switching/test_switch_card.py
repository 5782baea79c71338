"""A switch in words: stages with their times, how long it will take, and the chip of every page."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from gated_configs.wording import THIN_SPACE
from generation.engine_state import engine_state
from generation.models import EngineHost
from generation.switch_card import SwitchCard, switch_card
from registry.models import ModelSwitch, SwitchStage
from registry.services import cancel_switch, request_switch

pytestmark = pytest.mark.django_db

SMALL = "musicgen-small"


def card(stage: SwitchStage, *, here: float = 0.0, **fields: Any) -> SwitchCard:
    """The card of a switch that has been in that stage for so many seconds."""
    ModelSwitch.objects.filter(open_slot=True).delete()
    values = {"model_id": SMALL, "previous_id": "musicgen-demo", "stage": stage, **fields}
    if not ModelSwitch(**values).is_open:
        values |= {"open_slot": None, "finished_at": timezone.now()}
    began = timezone.now() - timedelta(seconds=here)
    return switch_card(ModelSwitch.objects.create(stage_started_at=began, **values))


def steps(shown: SwitchCard) -> dict[str, str]:
    """State by label."""
    return {step.label: step.state for step in shown.steps}


def test_each_stage_is_done_now_or_to_come() -> None:
    shown = card(SwitchStage.VERIFYING, stage_seconds={"queued": 0.1, "downloading": 80})
    assert (shown.state, shown.can_cancel) == ("running", True)
    assert steps(shown) == {
        "Download": "done", "Verify": "now", "Wait for jobs": "to-come", "Load and prove": "to-come",
    }  # fmt: skip
    assert shown.steps[0].time_line.replace(THIN_SPACE, " ") == "1 min 20 s"
    ready = card(SwitchStage.READY, stage_seconds={"queued": 0.1, "loading": 3})
    assert steps(ready) == {
        "Download": "skipped", "Verify": "skipped", "Wait for jobs": "skipped", "Load and prove": "done",
    }  # fmt: skip
    assert not ready.can_cancel


def test_the_line_counts_bytes_and_tells_the_remaining_time_from_its_own_pace() -> None:
    shown = card(
        SwitchStage.DOWNLOADING, here=30, fraction=0.25, bytes_done=500_000_000, bytes_total=2_000_000_000
    )
    assert shown.percent == 25
    assert shown.remaining_seconds == pytest.approx(90, rel=0.1)
    line = shown.status_line.replace(THIN_SPACE, " ")
    assert line.startswith("Downloading · 500 MB of 2 GB · ")
    assert "left" in line


def test_without_a_fraction_earlier_switches_tell_the_time() -> None:
    assert card(SwitchStage.LOADING).remaining_seconds is None
    for seconds in (10, 20):
        card(SwitchStage.READY, stage_seconds={"loading": seconds})
    assert card(SwitchStage.LOADING, here=5).remaining_seconds == pytest.approx(10, abs=1)
    assert card(SwitchStage.LOADING, here=60).remaining_seconds == 0
    waiting = card(SwitchStage.QUEUED)
    assert waiting.steps[-1].time_line.replace(THIN_SPACE, " ").startswith("about 15")


def test_a_cancel_that_was_asked_for_shows() -> None:
    shown = card(SwitchStage.VERIFYING, cancel_requested_at=timezone.now())
    assert (shown.status_line, shown.can_cancel) == ("Cancelling", False)


def test_the_chip_of_every_page_tells_of_the_switch() -> None:
    answer = request_switch(SMALL)
    assert engine_state().state == "none", "without an engine nothing happens"
    EngineHost.objects.create(name="host", hostname="h", pid=1, state="ready", model_id="musicgen-demo")
    state = engine_state()
    assert (state.state, state.label) == ("switching", "switching to MusicGen Small")
    ModelSwitch.objects.update(stage=SwitchStage.LOADING, fraction=0.4)
    assert engine_state().label == "switching to MusicGen Small 40%"
    ModelSwitch.objects.update(stage=SwitchStage.QUEUED, fraction=None)
    assert answer.switch is not None
    assert cancel_switch(answer.switch)
    assert engine_state().state == "ready"
    request_switch("musicgen-demo", reload=True)
    assert engine_state().label == "reloading MusicGen Demo"
