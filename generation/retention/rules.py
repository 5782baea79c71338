"""What a rule is, and the rules about takes: past their time, deleted long ago, or over a limit.

A rule finds first and removes afterwards, one by one; each removal looks again whether it is still due.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Final

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db.models import Q, Sum
from django.utils import timezone

from gated_configs.wording import gigabytes, plain_number
from generation.models import Clip, Take, TakeQuerySet
from generation.services import clips, storage, takes

#: A run takes so many at most, and the next one comes at once.
BATCH: Final = 500
#: A clip that no take or job needs is kept for so long after it was brought in or last asked for.
CLIP_LIFE: Final = timedelta(days=7)


@dataclass(frozen=True)
class Removal:
    """One thing that a rule removes. `remove` answers the bytes freed, or None when it is no longer due."""

    what: str
    size_bytes: int
    reason: str
    remove: Callable[[], int | None]


@dataclass
class Finding:
    """What a rule removes, how much it found and leaves, and what an operator should look at."""

    removals: list[Removal] = field(default_factory=list)
    left: int = 0
    note: str = ""


@dataclass(frozen=True)
class Look:
    """How to look: `only_tells` changes nothing, `at_once` waits for nothing that could still be somebody's mistake."""

    only_tells: bool = False
    at_once: bool = False

    @property
    def most(self) -> int | None:
        """How many removals a run of a rule has at most; who only looks is told all."""
        return None if self.only_tells else BATCH


@dataclass(frozen=True)
class Rule:
    """`every` is how often the studio runs it by itself; one `of_home` looks at files of this machine alone."""

    name: str
    meaning: str
    every: timedelta
    find: Callable[[Look], Finding]
    of_home: bool = False


def _light(rows: TakeQuerySet) -> TakeQuerySet:
    """Without the columns that are large."""
    return rows.select_related("owner").defer("recipe", "peaks")


def _removal(take: Take, reason: str, remove: Callable[[], int | None]) -> Removal:
    return Removal(f"take {take.pk} of {take.owner.get_username()}", take.file_bytes, reason, remove)


def _for_good(take: Take, still: TakeQuerySet, reason: str) -> Removal:
    detail = f"of {take.owner.get_username()}: {reason}"
    return _removal(take, reason, partial(takes.remove_take, take, still, reason=detail))


def find_expired(look: Look) -> Finding:
    """Deleted takes that can no longer be brought back. Who deleted them is on record already."""
    hours = settings.STUDIO.keep_deleted_hours
    return Finding(
        [
            _removal(
                take,
                f"deleted more than {plain_number(hours)} h ago",
                partial(takes.remove_take, take, Take.objects.expired()),
            )
            for take in _light(Take.objects.expired()).order_by("deleted_at")[: look.most]
        ]
    )


def find_old(look: Look) -> Finding:
    """Takes past the days that the operator keeps them; they are deleted as by hand, and can be brought back."""
    days = settings.STUDIO.keep_takes_days
    if not days:
        return Finding()
    old = Take.objects.removable().kept().filter(created_at__lt=timezone.now() - timedelta(days=days))
    reason = f"older than {plain_number(days)} days"

    def delete(take: Take) -> int | None:
        detail = f"of {take.owner.get_username()}: {reason}"
        return 0 if takes.delete_by_rule(take, old, reason=detail) else None

    return Finding(
        [
            _removal(take, reason, partial(delete, take))
            for take in _light(old).order_by("created_at")[: look.most]
        ]
    )


def find_needless_clips(look: Look) -> Finding:
    """Clips that nobody brought in or asked for lately, and from which no take was made that is still there."""
    needless = Clip.objects.needless().filter(used_at__lt=timezone.now() - CLIP_LIFE)
    return Finding(
        [
            Removal(
                f"clip {clip.pk} of {clip.owner.get_username()}",
                clip.file_bytes,
                "not used for a week",
                partial(
                    clips.remove_by_rule,
                    clip,
                    needless,
                    reason=f"of {clip.owner.get_username()}: not used for a week",
                ),
            )
            for clip in needless.select_related("owner").order_by("used_at")[: look.most]
        ]
    )


def find_over_limits(look: Look) -> Finding:
    """What has to go so that each person, all together and the disk are within their limits.

    Deleted takes go first, before their time. Others go only where the operator chose `remove-oldest`.
    """
    finding = Finding()
    chosen: set[int] = set()
    makes_room = settings.STUDIO.when_full == "remove-oldest"
    person_limit, total = storage.max_person_bytes(), storage.total_storage()
    if makes_room and person_limit is not None:
        reason = f"more than {gigabytes(person_limit)} of one person"
        for pk, used in _users().items():
            over = used + storage.promised_bytes(get_user_model()(pk=pk)) - person_limit
            finding.removals += _oldest_of(pk, over, reason, chosen)
    freed = sum(removal.size_bytes for removal in finding.removals)
    promised = storage.promised_bytes()
    over = 0
    if total.max_bytes is not None:
        over, reason = (
            total.used_bytes + promised - total.max_bytes - freed,
            "takes of all people over the limit",
        )
    free = storage.free_for_takes()
    short = storage.min_free_bytes() + promised - free - freed if free is not None else 0
    if short > max(over, 0):
        over, reason = short, "the disk is nearly full"
    if over <= 0:
        return finding
    deleted = _light(Take.objects.filter(deleted_at__isnull=False)).order_by("deleted_at")
    for take in deleted[: look.most]:
        if over <= 0:
            return finding
        finding.removals.append(_for_good(take, Take.objects.filter(deleted_at__isnull=False), reason))
        over -= take.file_bytes
    if makes_room:
        over = _from_largest(finding, over, reason, chosen)
    if over > 0 and len(finding.removals) < BATCH:
        finding.note = f"{gigabytes(over)} over a limit, and no rule may remove more. New jobs are refused."
    return finding


def _users() -> dict[int, int]:
    """Bytes of kept takes and clips by person."""
    rows = Take.objects.kept().order_by().values_list("owner").annotate(used=Sum("file_bytes"))
    using = storage.clip_bytes_by_person()
    for owner, used in rows:
        using[owner] = using.get(owner, 0) + used
    return using


def _oldest_of(owner: int, over: int, reason: str, chosen: set[int]) -> list[Removal]:
    """The oldest takes of a person that make up for so many bytes, as far as rules may remove them."""
    found: list[Removal] = []
    if over <= 0:
        return found
    mine = Take.objects.removable().kept().filter(Q(owner=owner) & ~Q(pk__in=chosen))
    for take in _light(mine).order_by("created_at")[:BATCH]:
        if over <= 0:
            break
        chosen.add(take.pk)
        found.append(_for_good(take, Take.objects.removable().kept(), reason))
        over -= take.file_bytes
    return found


def _from_largest(finding: Finding, over: int, reason: str, chosen: set[int]) -> int:
    """Take from who uses most, down to who uses second most and so on: nobody's takes make room for a larger user's.

    Answers the bytes that are still over.
    """
    using = _users()
    for pk, size in Take.objects.filter(pk__in=chosen).values_list("owner", "file_bytes"):
        using[pk] -= size
    queues = {
        pk: list(_oldest_of(pk, over, reason, set(chosen)))[::-1]
        for pk, _ in sorted(using.items(), key=lambda use: -use[1])[:50]
    }
    while over > 0 and len(finding.removals) < BATCH:
        largest = max((pk for pk, queue in queues.items() if queue), key=lambda pk: using[pk], default=None)
        if largest is None:
            break
        removal = queues[largest].pop()
        using[largest] -= removal.size_bytes
        over -= removal.size_bytes
        finding.removals.append(removal)
    return over
