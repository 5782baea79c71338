"""Asking for a switch and cancelling it: who joins, who is refused, and what no sequence of verbs can break."""

import contextlib
import threading
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connections, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.models import SWITCH_TRANSITIONS, ModelConfig, ModelSwitch, SwitchStage
from registry.models.model_switch import OPEN_STAGES
from registry.services import (
    ModelNotFound,
    ModelNotPlayable,
    SwitchUnderWay,
    cancel_switch,
    get_model_config,
    request_switch,
    switches,
)
from tests.switching.models import active_id, switch_to

HOST = "host-of-the-test"
SMALL, MEDIUM, LOCKED = "musicgen-small", "musicgen-medium", "musicgen-stereo-large"


@pytest.mark.django_db
def test_a_request_makes_a_row(owner: User) -> None:
    answer = request_switch(SMALL, owner)
    assert (answer.outcome, answer.sentence) == ("started", "Switching to MusicGen Small.")
    row = ModelSwitch.objects.get()
    assert row == answer.switch
    assert (row.model_id, row.previous_id, row.requested_by) == (SMALL, "musicgen-demo", owner)
    assert (row.stage, row.is_reload, row.host, row.is_open) == ("queued", False, "", True)
    assert active_id() == "musicgen-demo"


@pytest.mark.django_db
@pytest.mark.parametrize("name", [SMALL, "facebook/musicgen-small"])
def test_a_second_request_for_the_same_model_joins(name: str) -> None:
    first = request_switch(SMALL)
    second = request_switch(name)
    assert second.outcome == "joined"
    assert second.switch == first.switch
    assert ModelSwitch.objects.count() == 1


@pytest.mark.django_db
def test_a_request_for_another_model_is_refused_and_names_the_switch_under_way() -> None:
    switch = switch_to(get_model_config(SMALL))
    with pytest.raises(
        SwitchUnderWay, match=r"A switch to MusicGen Small is under way \(queued\)"
    ) as refused:
        request_switch(MEDIUM)
    assert refused.value.switch == switch
    with pytest.raises(SwitchUnderWay):
        request_switch("musicgen-demo")
    assert ModelSwitch.objects.count() == 1


@pytest.mark.django_db
def test_the_active_model_is_active_already_and_can_be_reloaded() -> None:
    answer = request_switch("musicgen-demo")
    assert (answer.outcome, answer.switch) == ("already active", None)
    assert answer.sentence == "MusicGen Demo is already active. Reload it to start it anew."
    assert not ModelSwitch.objects.exists()
    reload = request_switch("musicgen-demo", reload=True)
    assert reload.outcome == "started"
    assert reload.switch is not None
    assert reload.switch.is_reload
    # Reload of a model that is not active is a plain switch.
    cancel_switch(reload.switch)
    assert not switch_to(get_model_config(SMALL), reload=True).is_reload


@pytest.mark.django_db
@pytest.mark.parametrize("reload", [False, True])
def test_what_cannot_be_played_or_found_is_refused(reload: bool, locked: str) -> None:
    with pytest.raises(ModelNotPlayable, match="MusicGen Stereo Large cannot be played yet"):
        request_switch(locked, reload=reload)
    for name in ("no-such-model", "", "a\0b", "ä"):
        with pytest.raises(ModelNotFound, match="There is no model"):
            request_switch(name, reload=reload)
    assert not ModelSwitch.objects.exists()


@pytest.mark.django_db
def test_rows_allow_one_open_switch() -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        ModelSwitch.objects.create(model_id=SMALL, stage=SwitchStage.READY)
    switch_to(get_model_config(SMALL))
    with pytest.raises(IntegrityError), transaction.atomic():
        ModelSwitch.objects.create(model_id=MEDIUM)
    assert ModelSwitch.objects.count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize("wanted", [SMALL, MEDIUM])
def test_who_is_late_by_a_moment_joins_or_is_refused(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = switch_to(get_model_config(SMALL))
    look = switches.open_switch
    looks = iter([None, first])
    # The first look still finds nothing; then the constraint decides.
    monkeypatch.setattr(switches, "open_switch", lambda: next(looks) and look())
    if wanted == SMALL:
        assert request_switch(wanted).switch == first
    else:
        with pytest.raises(SwitchUnderWay):
            request_switch(wanted)
    assert ModelSwitch.objects.get() == first
    assert next(looks, "no more") == "no more", "both looks were taken"


@pytest.mark.django_db(transaction=True)
def test_of_many_at_once_one_starts_and_the_others_join() -> None:
    barrier = threading.Barrier(6)
    outcomes: list[str] = []

    def ask() -> None:
        barrier.wait(timeout=30)
        try:
            outcomes.append(request_switch(SMALL).outcome)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(outcomes) == ["joined"] * 5 + ["started"]
    assert ModelSwitch.objects.count() == 1


# Cancelling.


def in_stage(stage: SwitchStage) -> ModelSwitch:
    """A switch that a host has brought to that stage."""
    switch = switch_to(get_model_config(SMALL))
    if stage != SwitchStage.QUEUED:
        claimed = switches.claim_switch(HOST)
        assert claimed == switch
        assert switches.enter_stage(claimed, stage, host=HOST)
        switch.refresh_from_db()
    return switch


@pytest.mark.django_db
def test_a_queued_switch_is_cancelled_at_once() -> None:
    switch = in_stage(SwitchStage.QUEUED)
    assert cancel_switch(switch)
    switch.refresh_from_db()
    assert (switch.stage, switch.is_open) == ("cancelled", False)
    assert switch.message == "Cancelled before it began. Nothing changed."
    assert switch.finished_at is not None
    assert switches.claim_switch(HOST) is None
    assert request_switch(MEDIUM).outcome == "started"


@pytest.mark.django_db
@pytest.mark.parametrize("stage", [SwitchStage.DOWNLOADING, SwitchStage.VERIFYING, SwitchStage.WAITING])
def test_in_these_stages_a_cancel_reaches_the_host(stage: SwitchStage) -> None:
    switch = in_stage(stage)
    assert switches.write_switch_progress(switch, HOST) is False
    assert cancel_switch(switch)
    switch.refresh_from_db()
    assert switch.is_open, "the host ends it"
    assert switches.write_switch_progress(switch, HOST) is True
    assert switches.write_switch_progress(switch, "another-host") is None


@pytest.mark.django_db
@pytest.mark.parametrize("stage", [SwitchStage.LOADING, SwitchStage.READY, SwitchStage.FAILED])
def test_from_loading_on_there_is_nothing_to_cancel(stage: SwitchStage) -> None:
    switch = in_stage(SwitchStage.LOADING)
    if stage != SwitchStage.LOADING:
        assert switches.enter_stage(switch, stage, host=HOST)
    assert not cancel_switch(switch)
    switch.refresh_from_db()
    assert switch.cancel_requested_at is None
    assert switch.stage == stage


@pytest.mark.django_db
def test_a_cancel_that_comes_too_late_is_told_so() -> None:
    seen = in_stage(SwitchStage.VERIFYING)
    held = ModelSwitch.objects.get()
    assert switches.enter_stage(held, SwitchStage.LOADING, host=HOST)
    assert not cancel_switch(seen), "we read it as verifying; it loads by now"


@pytest.mark.django_db
def test_a_claim_goes_to_one_host() -> None:
    switch_to(get_model_config(SMALL))
    assert switches.claim_switch(HOST) is not None
    assert switches.claim_switch("another-host") is None
    row = ModelSwitch.objects.get()
    assert not switches.enter_stage(row, SwitchStage.LOADING, host="another-host")
    assert ModelSwitch.objects.get().stage == "queued"


# How it completes, and how a lost host is noticed.


@pytest.mark.django_db
def test_only_completion_changes_the_active_model() -> None:
    switch = in_stage(SwitchStage.LOADING)
    assert active_id() == "musicgen-demo"
    assert not switches.complete_switch(ModelSwitch.objects.get(), host="another-host")
    assert active_id() == "musicgen-demo"
    assert switches.complete_switch(switch, host=HOST)
    assert active_id() == SMALL
    switch.refresh_from_db()
    assert (switch.stage, switch.message, switch.open_slot) == ("ready", "MusicGen Small is ready.", None)


@pytest.mark.django_db
def test_a_model_that_was_locked_meanwhile_does_not_become_active() -> None:
    switch = in_stage(SwitchStage.LOADING)
    ModelConfig.objects.filter(pk=SMALL).update(is_playable=False)
    with pytest.raises(ModelNotPlayable):
        switches.complete_switch(switch, host=HOST)
    assert switch.stage == "loading", "what we hold is what the row says"
    assert ModelSwitch.objects.get().stage == "loading"
    assert active_id() == "musicgen-demo"


@pytest.mark.django_db
@pytest.mark.parametrize("stage", [*OPEN_STAGES[1:], SwitchStage.QUEUED])
def test_a_switch_whose_host_is_gone_fails_with_what_to_do(stage: SwitchStage) -> None:
    switch = in_stage(stage)
    if stage == SwitchStage.QUEUED:
        assert switches.claim_switch(HOST) is not None
    assert switches.recover_switches(is_alive=lambda name: name == HOST) == 0
    assert switches.recover_switches(is_alive=lambda name: False) == 1
    switch.refresh_from_db()
    assert (switch.stage, switch.error_code) == ("failed", "ENGINE_STOPPED")
    assert f"The engine stopped while the switch was {stage.label.lower()}." in switch.message
    assert "MusicGen Demo stays active. Switch again" in switch.message
    assert active_id() == "musicgen-demo"
    assert request_switch(MEDIUM).outcome == "started"


@pytest.mark.django_db
def test_a_switch_that_no_host_has_taken_waits() -> None:
    switch_to(get_model_config(SMALL))
    assert switches.recover_switches(is_alive=lambda name: False) == 0
    assert switches.claim_switch(HOST) is not None


# No sequence of verbs breaks it.

VERBS = st.one_of(
    st.tuples(st.just("request"), st.sampled_from([SMALL, MEDIUM, LOCKED, "musicgen-demo"]), st.booleans()),
    st.tuples(st.just("cancel")),
    st.tuples(st.just("claim"), st.sampled_from([HOST, "another-host"])),
    st.tuples(st.just("enter"), st.sampled_from(SwitchStage), st.sampled_from([HOST, "another-host"])),
    st.tuples(st.just("complete"), st.sampled_from([HOST, "another-host"])),
    st.tuples(st.just("recover"), st.booleans()),
)


def apply(verb: tuple[Any, ...]) -> None:
    """Do it, as page or engine would; refusals are part of the game."""
    switch = switches.open_switch()
    match verb:
        case ("request", model_id, reload):
            with contextlib.suppress(SwitchUnderWay, ModelNotPlayable):
                request_switch(model_id, reload=reload)
        case ("cancel",) if switch is not None:
            cancel_switch(switch)
        case ("claim", host):
            switches.claim_switch(host)
        case ("enter", stage, host) if switch is not None and switch.host:
            if stage not in SWITCH_TRANSITIONS[switch.stage]:
                with pytest.raises(ValueError, match="cannot become"):
                    switches.enter_stage(switch, stage, host=host)
            elif stage != SwitchStage.READY:  # which only completion may enter
                assert switches.enter_stage(switch, stage, host=host) == (host == switch.host)
        case ("complete", host) if switch is not None and switch.stage == SwitchStage.LOADING:
            assert switches.complete_switch(switch, host=host) == (host == switch.host)
        case ("recover", alive):
            switches.recover_switches(is_alive=lambda name: alive)


@pytest.mark.django_db
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(VERBS, max_size=25))
def test_whatever_is_asked_one_model_is_active_and_one_switch_open(
    locked: str, verbs: list[tuple[Any, ...]]
) -> None:
    with transaction.atomic():
        reached: dict[int, list[str]] = {}
        for verb in verbs:
            apply(verb)
            assert ModelSwitch.objects.filter(stage__in=OPEN_STAGES).count() <= 1
            done = ModelSwitch.objects.filter(stage=SwitchStage.READY).order_by("id").last()
            assert active_id() == (done.model_id if done is not None else "musicgen-demo")
            for row in ModelSwitch.objects.all():
                seen = reached.setdefault(row.pk, [row.stage])
                if row.stage != seen[-1]:
                    assert row.stage in SWITCH_TRANSITIONS[seen[-1]], (seen, row.stage)
                    seen.append(row.stage)
                assert (row.open_slot is True) == row.is_open == (row.finished_at is None)
                assert row.is_open or row.message or row.stage in ("failed", "cancelled")
                assert set(row.stage_seconds) == set(seen[:-1])
        transaction.set_rollback(True)


def test_the_table_of_transitions_leads_to_an_end_from_everywhere() -> None:
    for number, stage in enumerate(OPEN_STAGES):
        assert SwitchStage.FAILED in SWITCH_TRANSITIONS[stage]
        assert not set(OPEN_STAGES[: number + 1]) & SWITCH_TRANSITIONS[stage], "there is no way back"
        assert (SwitchStage.READY in SWITCH_TRANSITIONS[stage]) == (stage == SwitchStage.LOADING)
    for end in set(SwitchStage) - set(OPEN_STAGES):
        assert not SWITCH_TRANSITIONS[end]
