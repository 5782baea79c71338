"""Jobs and switches under hosts whose messages are delayed, repeated, lost and interleaved in every order.

A host acts on the copy of the row that it read, however old it is; the machine keeps what really happened beside.
"""

from collections import Counter
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from generation.models import TRANSITIONS, Job, JobStatus, Take
from generation.services import jobs
from registry.models import ModelConfig, ModelSwitch, SwitchStage
from registry.models.model_switch import SWITCH_TRANSITIONS
from registry.services import SwitchUnderWay, activate_model, request_switch, switches
from tests.generation.music import make_job, save
from tests.switching.models import dwarf

HOSTS = ("left", "right")
ENDED_JOB = {status for status, following in TRANSITIONS.items() if not following}
ENDED_SWITCH = {stage for stage, following in SWITCH_TRANSITIONS.items() if not following}
#: Which copy of those that are held, oldest first; older ones are as likely as new ones.
ANY = st.integers(min_value=0, max_value=7)


class Rolled(RuleBasedStateMachine):
    """Each example begins with the same rows: what it wrote is taken back."""

    owner: User

    def __init__(self) -> None:
        super().__init__()
        self._block = transaction.atomic()
        self._block.__enter__()

    def teardown(self) -> None:
        """Take everything back."""
        transaction.set_rollback(True)
        self._block.__exit__(None, None, None)


class Jobs(Rolled):
    """Two hosts and the owner of some jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[tuple[str, Job]] = []  # who read it, and what
        self.seen: dict[int, str] = {}
        self.ends: Counter[int] = Counter()
        self.begun: Counter[int] = Counter()

    def copy(self, index: int) -> tuple[str, Job]:
        """One of the copies, whoever holds it; itself a copy, so that it may be used again as old as it is."""
        host, job = self.copies[index % len(self.copies)]
        old = Job(**{field.attname: getattr(job, field.attname) for field in Job._meta.concrete_fields})
        old._state.adding = False
        return host, old

    @initialize(lost=st.booleans())
    def begin(self, lost: bool) -> None:
        """One job is in somebody's hands, perhaps after it slipped from another's who does not know: here it gets hard."""
        self.submit(2)
        self.claim("left")
        if lost:
            self.lease_lapses(0, "right")
            self.claim("right")

    @rule(variations=st.sampled_from([1, 2]))
    def submit(self, variations: int) -> None:
        make_job(self.owner, variations=variations)

    @rule(host=st.sampled_from(HOSTS))
    def claim(self, host: str) -> None:
        job = jobs.claim_next_job(host)
        if job is not None:
            self.begun[job.pk] += 1
            self.copies.append((host, job))

    @precondition(lambda self: self.copies)
    @rule(index=ANY)
    def claim_beside(self, index: int) -> None:
        host, in_hand = self.copy(index)
        job = jobs.claim_job_beside(host, in_hand, places=2)
        if job is not None:
            self.begun[job.pk] += 1
            self.copies.append((host, job))
            assert (job.lease_owner, job.attempts) == (host, 1)

    @precondition(lambda self: self.copies)
    @rule(index=ANY)
    def renew(self, index: int) -> None:
        host, job = self.copy(index)
        held = Job.objects.filter(pk=job.pk, status=JobStatus.RUNNING, lease_owner=host).exists()
        assert (jobs.write_progress(job, host) is not None) == held

    @precondition(lambda self: self.copies)
    @rule(index=ANY, variation=st.sampled_from([0, 1]))
    def keep_take(self, index: int, variation: int) -> None:
        host, job = self.copy(index)
        if variation >= job.variations:
            return
        held = Job.objects.filter(pk=job.pk, status=JobStatus.RUNNING, lease_owner=host).exists()
        there = Take.objects.filter(job=job, variation=variation).values_list("pk", flat=True).first()
        take = save(job, host=host, variation=variation, seconds=0.01)
        assert (take is not None) == held
        assert take is None or there in (None, take.pk), "the first one stays"

    @precondition(lambda self: self.copies)
    @rule(index=ANY, status=st.sampled_from([JobStatus.FINISHED, JobStatus.FAILED, JobStatus.CANCELLED]))
    def end(self, index: int, status: JobStatus) -> None:
        host, job = self.copy(index)
        held = Job.objects.filter(pk=job.pk, status=JobStatus.RUNNING, lease_owner=host).exists()
        assert jobs.end_job(job, status, host=host, error_code="TOLD", error_message="Told.") == held

    @precondition(lambda self: self.copies)
    @rule(index=ANY, counts=st.booleans())
    def hand_back(self, index: int, counts: bool) -> None:
        host, job = self.copy(index)
        held = Job.objects.filter(pk=job.pk, status=JobStatus.RUNNING, lease_owner=host).exists()
        assert jobs.hand_back(job, host, counts_as_attempt=counts) == held

    @precondition(lambda self: self.copies)
    @rule(index=ANY, by=st.sampled_from(HOSTS))
    def lease_lapses(self, index: int, by: str) -> None:
        """As somebody sees it: its holder sleeps, and will act again later."""
        _, job = self.copy(index)
        mine = Job.objects.filter(lease_owner=by).values_list("pk", flat=True)
        jobs.recover_jobs(by, lapsed=lambda row: row.pk == job.pk, in_hand=list(mine))

    @rule(index=ANY)
    def cancel(self, index: int) -> None:
        every = list(Job.objects.order_by("pk"))
        if every:
            jobs.request_cancel(every[index % len(every)])

    @invariant()
    def every_change_is_allowed_and_an_end_is_the_end(self) -> None:
        for pk, status in Job.objects.values_list("pk", "status"):
            before = self.seen.get(pk)
            if before is not None and status != before:
                # Two changes in one step, as of a job that was recovered and failed at once, are still on the way.
                assert before not in ENDED_JOB, (before, status)
            if status in ENDED_JOB and before not in ENDED_JOB:
                self.ends[pk] += 1
            self.seen[pk] = status
        assert all(count == 1 for count in self.ends.values())

    @invariant()
    def rows_are_true(self) -> None:
        for job in Job.objects.all():
            assert (job.status == JobStatus.RUNNING) == bool(job.lease_owner)
            assert job.attempts <= jobs.MAX_ATTEMPTS
            assert (job.finished_at is not None) == (job.status in ENDED_JOB)
            if job.status == JobStatus.FAILED:
                assert job.error_code
                assert job.error_message
        takes = Counter(Take.objects.values_list("job", "variation"))
        assert all(count == 1 for count in takes.values())
        named = set(Take.objects.values_list("file_name", flat=True))
        folder = takes_folder()
        assert {path.name for path in folder.glob("*")} >= named if folder.is_dir() else not named


def takes_folder() -> Path:
    """Where the takes of this test lie."""
    from django.conf import settings

    folder: Path = settings.STUDIO.takes_folder
    return folder


class Switches(Rolled):
    """Two hosts, two models, and people who want now one, now the other."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[tuple[str, ModelSwitch]] = []
        self.seen: dict[int, str] = {}
        self.active = ModelConfig.objects.get(is_active=True).pk

    def copy(self, index: int) -> tuple[str, ModelSwitch]:
        """One of the copies, as old as it is."""
        host, switch = self.copies[index % len(self.copies)]
        fields = {each.attname: getattr(switch, each.attname) for each in ModelSwitch._meta.concrete_fields}
        old = ModelSwitch(**fields)
        old._state.adding = False
        return host, old

    @initialize(loading=st.booleans())
    def begin(self, loading: bool) -> None:
        """A switch is in somebody's hands, perhaps at its last stage: here it gets hard."""
        self.request("two", False)
        self.claim("left")
        if loading:
            self.enter(0, SwitchStage.LOADING)

    @rule(model=st.sampled_from(["one", "two"]), reload=st.booleans())
    def request(self, model: str, reload: bool) -> None:
        try:
            answer = request_switch(model, reload=reload)
        except SwitchUnderWay:
            assert ModelSwitch.objects.filter(open_slot=True).exists()
            return
        assert answer.switch is None or answer.switch.is_open

    @rule(host=st.sampled_from(HOSTS))
    def claim(self, host: str) -> None:
        switch = switches.claim_switch(host)
        if switch is not None:
            self.copies.append((host, switch))

    @precondition(lambda self: self.copies)
    @rule(index=ANY, stage=st.sampled_from([stage for stage in SwitchStage if stage != SwitchStage.READY]))
    def enter(self, index: int, stage: SwitchStage) -> None:
        host, switch = self.copy(index)
        if stage not in SWITCH_TRANSITIONS[switch.stage]:
            return
        if (
            switches.enter_stage(switch, stage, host=host, message="Told.", error_code="TOLD")
            and switch.is_open
        ):
            self.copies.append((host, switch))

    @precondition(lambda self: self.copies)
    @rule(index=ANY)
    def complete(self, index: int) -> None:
        host, switch = self.copy(index)
        if SwitchStage.READY not in SWITCH_TRANSITIONS[switch.stage]:
            return
        if switches.complete_switch(switch, host=host):
            self.active = switch.model_id

    @precondition(lambda self: self.copies)
    @rule(index=ANY)
    def renew(self, index: int) -> None:
        host, switch = self.copy(index)
        held = ModelSwitch.objects.filter(pk=switch.pk, open_slot=True, host=host).exists()
        assert (switches.write_switch_progress(switch, host) is not None) == held

    @rule(index=ANY)
    def cancel(self, index: int) -> None:
        every = list(ModelSwitch.objects.order_by("pk"))
        if every:
            switches.cancel_switch(every[index % len(every)])

    @rule(dead=st.sampled_from(HOSTS))
    def host_is_lost(self, dead: str) -> None:
        """As others see it; it may act again later."""
        switches.recover_switches(is_alive=lambda name: name != dead)

    @invariant()
    def one_model_is_active_and_only_a_proven_switch_changes_that(self) -> None:
        assert list(ModelConfig.objects.filter(is_active=True).values_list("pk", flat=True)) == [self.active]

    @invariant()
    def an_end_is_the_end_and_one_is_open_at_most(self) -> None:
        for pk, stage in ModelSwitch.objects.values_list("pk", "stage"):
            before = self.seen.get(pk)
            assert before == stage or before not in ENDED_SWITCH, (before, stage)
            self.seen[pk] = stage
        unended = ModelSwitch.objects.filter(open_slot=True)
        assert unended.count() <= 1
        assert not unended.filter(finished_at__isnull=False).exists()
        assert all(row.message for row in ModelSwitch.objects.filter(stage=SwitchStage.FAILED))


EXPLORE = settings(
    max_examples=30,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.django_db
def test_jobs_under_any_order_of_messages(owner: User, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rolled, "owner", owner, raising=False)
    run_state_machine_as_test(Jobs, settings=EXPLORE)


@pytest.mark.django_db
def test_switches_under_any_order_of_messages(owner: User, tmp_path: Path) -> None:
    for name in ("one", "two"):
        dwarf(name, tmp_path)
    activate_model("one")
    run_state_machine_as_test(Switches, settings=EXPLORE)
