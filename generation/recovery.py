"""What other hosts left behind: jobs and switches that nobody renews, rows and files of hosts that are gone.

Every living host looks for it, and a conditional update decides which of them mends it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from django.conf import settings

from generation.host_row import HostRow
from generation.models import EngineHost, Job
from generation.services import adapters, hosts, jobs
from generation.services.watching import StillnessWatch
from registry.models import ModelSwitch
from registry.services import switches

#: A host of another machine that has said nothing for this long is no longer shown, in seconds.
FORGET_AFTER: Final = 600.0


class Recovery:
    """Looks at leases again and again. One round at a time."""

    def __init__(self, row: HostRow) -> None:
        self._row = row
        self._lease = float(settings.STUDIO.lease_seconds)
        # A third of a lease at most counts for one look: after a time in which nobody could renew, everybody gets another
        # chance to.
        self._watch = StillnessWatch(step_bound=self._lease / 3)

    @property
    def every_seconds(self) -> float:
        """How often to look."""
        return min(5.0, self._lease / 4)

    def recover(self, in_hand: Collection[int]) -> None:
        """Mend what can be mended now; `in_hand` are the jobs that this host works on. Raises DatabaseError."""
        watch = self._watch
        watch.look()
        jobs.recover_jobs(self._row.name, lapsed=self._job_lapsed, in_hand=in_hand)
        # Another host may have taken our row away; that we live we know better.
        switches.recover_switches(
            is_alive=lambda name: name == self._row.name or hosts.is_alive(name), lapsed=self._switch_lapsed
        )
        self._forget_silent_hosts()
        self._row.sweep_scratch()
        adapters.remove_deleted_weights()
        watch.end_round()

    def _job_lapsed(self, job: Job) -> bool:
        key = ("job", job.pk, job.lease_owner)
        return self._watch.still_seconds(key, job.lease_expires_at) >= self._lease

    def _switch_lapsed(self, switch: ModelSwitch) -> bool:
        key = ("switch", switch.pk, switch.host)
        return self._watch.still_seconds(key, switch.lease_expires_at) >= self._lease

    def _forget_silent_hosts(self) -> None:
        for row in EngineHost.objects.exclude(pk=self._row.name):
            if self._watch.still_seconds(("host", row.pk), row.heartbeat_at) >= FORGET_AFTER:
                EngineHost.objects.filter(pk=row.pk, heartbeat_at=row.heartbeat_at).delete()
