"""Rules about what nobody owns: files without a row, rows without a file, half-made files, copies that nobody uses.

Only files with names that the studio gives are looked at. The file of a take comes before its row and goes after it,
so who looks at files first and then at rows never takes a new file for an orphan.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

from django.conf import settings
from django.utils import timezone

from adapters.models import Adapter
from adapters.models.adapter import weights_name
from adapters.services.storage import weights_lock
from generation.models import (
    Clip,
    DeliveryStatus,
    EngineHost,
    Job,
    JobAdapter,
    JobStatus,
    Take,
    WebhookDelivery,
)
from generation.retention.rules import BATCH, Finding, Look, Removal
from generation.services import live, storage, takes
from generation.services.adapters import is_being_read
from registry.media import ASIDE, Found, Media, clips_media, files, live_media, takes_media, weights_media

HOUR: Final = 3600.0
#: A file without a row is left alone for so long, in seconds: clocks of machines that share files differ.
ORPHAN_AGE: Final = 24 * HOUR
#: The same where somebody asks for it at once.
ORPHAN_AGE_AT_ONCE: Final = 0.25 * HOUR
#: Orphans wait aside, and rows wait for their file, this long.
WAIT: Final = timedelta(days=7)
#: Half-made files of a process that was killed, in seconds.
PART_AGE: Final = HOUR
INCOMING_AGE: Final = 24 * HOUR
#: A take in another format is kept as long as somebody used it within this time, in seconds.
CONVERSION_AGE: Final = 7 * 24 * HOUR
#: How long people see what their webhooks were sent.
DELIVERY_LIFE: Final = timedelta(days=14)
#: So many orphans are an accident of their own, where they are also more than what has its row or file.
FEW: Final = 10

_TAKE = re.compile(r"\d{8}-\d+-\d+-[0-9a-f]{8}\.wav", re.ASCII)
_WEIGHTS = re.compile(r"[0-9a-f]{64}\.safetensors", re.ASCII)
_CLIP = re.compile(r"\d{8}-[0-9a-f]{16}\.flac", re.ASCII)
_PART = re.compile(r"\.[\w-]+\.(wav|flac|ogg|mp3)\.part", re.ASCII)
_CONVERTED = re.compile(r"\d{8}-\d+-\d+-[0-9a-f]{8}\.(flac|ogg|mp3)", re.ASCII)


def _scratch() -> Path:
    return Path(settings.STUDIO.home) / "scratch"


def _entry(folder: Path, found: Found, reason: str) -> Removal:
    size = found.size_bytes if found.is_file else files.bytes_below(folder / found.name)
    what = f"{folder.name}/{found.name}"
    return Removal(what, size, reason, partial(files.remove_entry, folder, found.name))


def find_half_made(look: Look) -> Finding:
    """Files of jobs, imports and conversions whose process was killed."""
    hosts = set(EngineHost.objects.values_list("name", flat=True))
    scratch, incoming = _scratch(), Path(settings.STUDIO.home) / "incoming"
    removals = [
        _entry(scratch, found, "its engine is gone")
        for found in files.entries_in(scratch)
        if found.name not in hosts and found.age_seconds > PART_AGE
    ]
    removals += [
        _entry(incoming, found, "an upload or import that never ended")
        for found in files.entries_in(incoming)
        if found.age_seconds > INCOMING_AGE
    ]
    for folder in (settings.STUDIO.takes_folder, settings.STUDIO.clips_folder, takes.converted_folder()):
        removals += [
            _entry(folder, found, "half written")
            for found in files.files_in(folder)
            if _PART.fullmatch(found.name) and found.age_seconds > PART_AGE
        ]
    removals += _heard_early()
    return Finding(removals)


def _heard_early() -> list[Removal]:
    """Parts of takes that an engine left which died with their job's end."""
    chunks = {
        found.name: (int(match[1]), found)
        for found in live_media().entries()
        if found.age_seconds > PART_AGE and (match := live.CHUNK_NAME.fullmatch(found.name))
    }
    jobs = {job for job, _ in chunks.values()}
    running = set(Job.objects.filter(status=JobStatus.RUNNING, pk__in=jobs).values_list("pk", flat=True))
    return [
        Removal(f"live/{name}", found.size_bytes, "its job is over", partial(live_media().remove, name))
        for name, (job, found) in chunks.items()
        if job not in running
    ]


def find_conversions(look: Look) -> Finding:
    """Takes in other formats that nobody asked for lately, or whose take is gone. They can be made again."""
    folder = takes.converted_folder()
    found = [file for file in files.files_in(folder) if _CONVERTED.fullmatch(file.name)]
    rows = _rows_of({f"{Path(file.name).stem}.wav" for file in found})
    is_short = storage.free_bytes() < storage.min_free_bytes()
    finding = Finding()
    for file in found:
        if file.age_seconds > CONVERSION_AGE:
            reason = "not used for a week"
        elif file.age_seconds > PART_AGE and f"{Path(file.name).stem}.wav" not in rows:
            reason = "its take is gone"
        elif file.age_seconds > PART_AGE and is_short:
            reason = "the disk is nearly full"
        else:
            continue
        finding.removals.append(_entry(folder, file, reason))
    finding.removals = finding.removals[: look.most]
    return finding


def _rows_of(names: set[str]) -> set[str]:
    """Which of these files some row names."""
    if len(names) > BATCH:
        return set(Take.objects.values_list("file_name", flat=True)) & names
    return set(Take.objects.filter(file_name__in=names).values_list("file_name", flat=True))


def find_orphans(look: Look) -> Finding:
    """Files of takes, clips and adapters without a row. They are set aside for a week, and then removed."""
    finding = Finding()
    there = [file for file in takes_media().entries() if _TAKE.fullmatch(file.name)]
    rows = _rows_of({file.name for file in there})
    _sort_out(finding, _Kind("takes", takes_media(), _take_is_owned), there, rows, look)
    there = [file for file in clips_media().entries() if _CLIP.fullmatch(file.name)]
    rows = {file.name for file in there} & set(Clip.objects.values_list("file_name", flat=True))
    _sort_out(finding, _Kind("clips", clips_media(), _clip_is_owned), there, rows, look)
    there = [file for file in weights_media().entries() if _WEIGHTS.fullmatch(file.name)]
    used = set(Adapter.objects.values_list("weights_sha256", flat=True))
    unfinished = [JobStatus.QUEUED, JobStatus.RUNNING]
    used |= set(
        JobAdapter.objects.filter(job__status__in=unfinished).values_list("weights_sha256", flat=True)
    )
    rows = {file.name for file in there if Path(file.name).stem in used}
    # An import of the same weights waits while one is taken away, or is waited for.
    _sort_out(
        finding, _Kind("adapters", weights_media(), _weights_are_owned, weights_lock), there, rows, look
    )
    return finding


@dataclass(frozen=True)
class _Kind:
    """Files of one kind, and how to see whether a row names one. `lock` is held between that look and what follows."""

    name: str
    media: Media
    is_owned: Callable[[str], bool]
    lock: Callable[[], AbstractContextManager[None]] = nullcontext


def _take_is_owned(name: str) -> bool:
    return Take.objects.filter(file_name=name).exists()


def _clip_is_owned(name: str) -> bool:
    return Clip.objects.filter(file_name=name).exists()


def _weights_are_owned(name: str) -> bool:
    weights = Path(name).stem
    return Adapter.objects.filter(weights_sha256=weights).exists() or is_being_read(weights)


def _sort_out(finding: Finding, kind: _Kind, there: list[Found], rows: set[str], look: Look) -> None:
    age = ORPHAN_AGE_AT_ONCE if look.at_once else ORPHAN_AGE
    orphans = [file for file in there if file.name not in rows and file.age_seconds > age]
    finding.left += sum(file.name not in rows for file in there) - len(orphans)
    waiting = kind.media.entries(aside=True)
    over = [file for file in waiting if look.at_once or file.age_seconds > WAIT.total_seconds()]
    finding.left += len(waiting) - len(over)
    finding.removals += [
        Removal(
            f"{kind.name}/{ASIDE}/{file.name}",
            file.size_bytes,
            "no row has named it for a week",
            partial(kind.media.remove, file.name, aside=True),
        )
        for file in over[: look.most]
    ]
    if len(orphans) > max(FEW, len(rows)) and not look.at_once:
        # Another database, or one brought back from earlier: nobody's music goes for that.
        finding.left += len(orphans)
        finding.note = (
            f"Most files in {kind.name} have no row: is this the right database? They are left alone;"
            " manage.py clean_up --at-once removes them."
        )
        return
    finding.removals += [
        Removal(
            f"{kind.name}/{file.name}",
            file.size_bytes,
            "no row names it" if look.at_once else f"no row names it: set aside in {kind.name}/{ASIDE}",
            partial(_take_away, kind, file.name, at_once=look.at_once),
        )
        for file in orphans[: look.most]
    ]


def _take_away(kind: _Kind, name: str, *, at_once: bool) -> int | None:
    with kind.lock():
        if kind.is_owned(name):
            return None
        return kind.media.remove(name) if at_once else kind.media.set_aside(name)


def find_lost(look: Look) -> Finding:
    """Rows of takes whose file is gone. A row waits a week for it; favourites stay, with their recipe, for ever.

    Adapters without their file are told and left: staff may import the same weights again.
    """
    finding = Finding()
    # Rows first: each of these had its file.
    rows = list(Take.objects.values_list("pk", "file_name", "file_missing_since"))
    there = {file.name for file in takes_media().entries()}
    missing = {pk for pk, name, _ in rows if name not in there}
    if len(missing) > max(FEW, len(rows) - len(missing)) and not look.at_once:
        finding.left = len(missing)
        finding.note = "Most takes have no file: is the folder of takes there? Their rows are left alone."
        return finding
    now = timezone.now()
    if not look.only_tells:
        new = [pk for pk, _, since in rows if pk in missing and since is None]
        back = [pk for pk, _, since in rows if pk not in missing and since is not None]
        for start in range(0, len(new), BATCH):
            Take.objects.filter(pk__in=new[start : start + BATCH]).update(file_missing_since=now)
        for start in range(0, len(back), BATCH):
            Take.objects.filter(pk__in=back[start : start + BATCH]).update(file_missing_since=None)
    due = {pk for pk, _, since in rows if pk in missing and (look.at_once or (since and since < now - WAIT))}
    still = Take.objects.removable()
    lost = still.filter(pk__in=sorted(due)[: look.most]).select_related("owner").defer("recipe", "peaks")
    finding.removals = [
        Removal(f"row of take {take.pk}", 0, "its file is gone", partial(_remove_lost, take)) for take in lost
    ]
    finding.left = len(missing) - len(finding.removals)
    rows_of_weights = list(Adapter.objects.all())
    weights = {file.name for file in weights_media().entries()}
    gone = [adapter for adapter in rows_of_weights if weights_name(adapter.weights_sha256) not in weights]
    if gone:
        finding.left += len(gone)
        names = ", ".join(map(str, gone[:3])) + (", …" if len(gone) > 3 else "")
        finding.note = (
            f"{len(gone)} adapter{'s' * (len(gone) > 1)} without a file: {names}. Import or delete."
        )
    return finding


def _remove_lost(take: Take) -> int | None:
    if takes_media().exists(take.file_name):
        return None
    reason = f"of {take.owner.get_username()}: its file is gone"
    return takes.remove_take(take, Take.objects.removable(), reason=reason)


def find_deliveries(look: Look) -> Finding:
    """The log of what webhooks were sent, after two weeks. What waits is kept, unless its owner may not log in."""
    before = timezone.now() - DELIVERY_LIFE
    old = WebhookDelivery.objects.filter(created_at__lt=before).exclude(
        status=DeliveryStatus.PENDING, webhook__owner__is_active=True
    )
    count = old.count()
    if not count:
        return Finding()

    def remove() -> int:
        old.delete()
        return 0

    return Finding([Removal(f"log of {count} webhook deliveries", 0, "older than two weeks", remove)])
