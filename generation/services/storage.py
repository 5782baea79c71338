"""How much disk the takes and clips of each person and of all use, what is allowed, and whether one more job has room.

Deleted takes do not count for their owner: deleting makes room at once. Jobs that are not over count with what they
will write, so that a queue full of them cannot pass the limit together.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db.models import Count, ExpressionWrapper, F, FloatField, Q, Sum, Value
from django.db.models.functions import Coalesce

from gated_configs.wording import gigabytes
from generation.models import Clip, ClipQuerySet, Job, Take
from generation.models.job import audio_seconds
from generation.services.refusals import Refusal, StorageFull
from registry.media import takes_media
from registry.models import ModelConfig

#: A take is 16-bit audio.
BYTES_A_SAMPLE = 2


@dataclass(frozen=True)
class PersonUse:
    """What the takes of one person use, and their clips. A limit of None means that there is none."""

    username: str
    takes: int
    take_bytes: int
    favourite_bytes: int
    clip_bytes: int
    max_bytes: int | None

    @property
    def used_bytes(self) -> int:
        """All of it."""
        return self.take_bytes + self.clip_bytes

    @property
    def lasting_bytes(self) -> int:
        """What no rule removes to make room."""
        return self.favourite_bytes + self.clip_bytes


@dataclass(frozen=True)
class TotalUse:
    """What all takes use: those that are there, and those deleted whose files have not gone yet; and all clips."""

    takes: int
    kept_bytes: int
    favourite_bytes: int
    deleted_bytes: int
    clip_bytes: int
    max_bytes: int | None

    @property
    def used_bytes(self) -> int:
        """All of it."""
        return self.kept_bytes + self.deleted_bytes + self.clip_bytes


def max_person_bytes() -> int | None:
    """The limit of each person, if there is one."""
    return round(settings.STUDIO.max_person_gb * 10**9) or None


def max_takes_bytes() -> int | None:
    """The limit of all people together, if there is one."""
    return round(settings.STUDIO.max_takes_gb * 10**9) or None


def min_free_bytes() -> int:
    """What stays free of the disk."""
    return round(settings.STUDIO.min_free_gb * 10**9)


def free_for_takes() -> int | None:
    """What is free where takes are kept; None in a bucket, which has no end. Raises OSError."""
    return None if takes_media().is_remote else free_bytes()


def free_bytes() -> int:
    """What is free of the home's disk, takes included where they lie there. Raises OSError where it does not answer."""
    home = Path(settings.STUDIO.home)
    takes = home / "takes"
    return shutil.disk_usage(next((path for path in (takes, home) if path.is_dir()), home.parent)).free


def storage_of(owner: Any) -> PersonUse:
    """What somebody's takes and clips use."""
    found = (
        Take.objects.for_user(owner)
        .kept()
        .aggregate(
            takes=Count("pk"),
            used=Coalesce(Sum("file_bytes"), 0),
            favourites=Coalesce(Sum("file_bytes", filter=Q(is_favourite=True)), 0),
        )
    )
    return PersonUse(
        owner.get_username(),
        found["takes"],
        found["used"],
        found["favourites"],
        _clip_bytes(Clip.objects.for_user(owner)),
        max_person_bytes(),
    )


def _clip_bytes(clips: ClipQuerySet) -> int:
    return int(clips.aggregate(used=Coalesce(Sum("file_bytes"), 0))["used"])


def clip_bytes_by_person() -> dict[int, int]:
    """Bytes of clips by the person's id."""
    return dict(Clip.objects.order_by().values_list("owner").annotate(used=Sum("file_bytes")))


def total_storage() -> TotalUse:
    """What everybody's takes and clips use."""
    kept = Q(deleted_at__isnull=True)
    found = Take.objects.aggregate(
        takes=Count("pk", filter=kept),
        kept=Coalesce(Sum("file_bytes", filter=kept), 0),
        favourites=Coalesce(Sum("file_bytes", filter=kept & Q(is_favourite=True)), 0),
        deleted=Coalesce(Sum("file_bytes", filter=~kept), 0),
    )
    return TotalUse(
        found["takes"],
        found["kept"],
        found["favourites"],
        found["deleted"],
        _clip_bytes(Clip.objects.all()),
        max_takes_bytes(),
    )


def largest_users(limit: int) -> list[PersonUse]:
    """Who uses most, most first."""
    rows = (
        Take.objects.kept()
        .values("owner", username=F("owner__username"))
        .annotate(
            takes=Count("pk"),
            used=Sum("file_bytes"),
            favourites=Coalesce(Sum("file_bytes", filter=Q(is_favourite=True)), 0),
        )
        .order_by("-used", "username")[:limit]
    )
    most, clips = max_person_bytes(), clip_bytes_by_person()
    return [
        PersonUse(
            row["username"],
            row["takes"],
            row["used"],
            row["favourites"],
            clips.get(row["owner"], 0),
            most,
        )
        for row in rows
    ]


def bytes_of(model: ModelConfig, seconds: float) -> int:
    """About how large takes of that many seconds become, over all variations."""
    return round(seconds * model.sample_rate * model.channels * BYTES_A_SAMPLE)


def promised_bytes(owner: Any = None) -> int:
    """What unfinished jobs, of somebody or of all, will write. Takes they have made already count twice for a while."""
    jobs = Job.objects.unfinished() if owner is None else Job.objects.for_user(owner).unfinished()
    rate = F("model__sample_rate") * F("model__channels") * BYTES_A_SAMPLE
    begun = Coalesce(F("continued_from_seconds"), Value(0.0)) * F("variations")
    size = ExpressionWrapper((audio_seconds() + begun) * rate, output_field=FloatField())
    found = jobs.order_by().aggregate(bytes=Sum(size))
    return round(found["bytes"] or 0)


def check_storage(owner: Any, wanted_bytes: int) -> None:
    """Raise StorageFull when there is no room for a job of that many bytes. In the transaction that queues it.

    With `remove-oldest` only what no rule may remove counts: the clean-up makes the rest of the room.
    """
    makes_room = settings.STUDIO.when_full == "remove-oldest"
    person_limit, total_limit = max_person_bytes(), max_takes_bytes()
    if person_limit is not None:
        use = storage_of(owner)
        held = use.lasting_bytes if makes_room else use.used_bytes
        _check(held + promised_bytes(owner), wanted_bytes, person_limit, _of_person(makes_room))
    if total_limit is not None:
        total = total_storage()
        held = (total.favourite_bytes if makes_room else total.kept_bytes) + total.clip_bytes
        _check(held + promised_bytes(), wanted_bytes, total_limit, _of_all(makes_room))
    _check_disk(wanted_bytes)


def _of_person(makes_room: bool) -> str:
    whose = "Your favourites" if makes_room else "Your takes"
    return (
        whose
        + ", clips and waiting jobs use {held} of {limit}, which is the limit. Delete takes you do not need."
    )


def _of_all(makes_room: bool) -> str:
    whose = "All favourites" if makes_room else "All takes"
    return (
        whose
        + ", clips and waiting jobs of this studio use {held} of {limit}, which is its limit. Delete takes you do not"
        " need, or ask the person who runs the studio."
    )


def _check(held: int, wanted: int, limit: int, sentence: str) -> None:
    if held + wanted <= limit:
        return
    words = sentence.format(held=gigabytes(held), limit=gigabytes(limit))
    facts = {"used_bytes": held, "wanted_bytes": wanted, "max_bytes": limit}
    raise StorageFull({"__all__": Refusal(words, "STORAGE_FULL", facts)})


def _check_disk(wanted: int) -> None:
    try:
        free = free_for_takes()
    except OSError:
        return  # the engine says it in its own words when it cannot write
    if free is None:
        return
    left = free - promised_bytes() - wanted
    if left >= min_free_bytes():
        return
    sentence = (
        f"The studio's disk is nearly full: {gigabytes(free)} are free. Delete takes you do not need, or ask the"
        " person who runs the studio."
    )
    facts = {"free_bytes": free, "wanted_bytes": wanted, "min_free_bytes": min_free_bytes()}
    raise StorageFull({"__all__": Refusal(sentence, "DISK_FULL", facts)})
