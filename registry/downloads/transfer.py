"""Fetches what a plan says is missing: resumable, checked as it streams, one fetcher per file on the machine.

A file gets its final name only when its hash is right, and a snapshot only when all its files are there.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from filelock import Timeout
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

from gated_configs.hub.client import Answer, Head, Hub, hub_of, with_retries
from gated_configs.hub.errors import (
    DISK_FULL,
    FILE_CORRUPT,
    HUB_ERROR,
    INCOMPLETE,
    STORAGE_ERROR,
    DownloadCancelled,
    DownloadFailed,
    Interrupted,
)
from gated_configs.hub.refusals import check_answer
from gated_configs.wording import gigabytes
from registry.downloads.cache import (
    blob_path,
    link_file,
    lock_path,
    part_path,
    read_listing,
    size_of,
    write_listing,
    write_ref,
)
from registry.downloads.hashes import hash_file, new_hasher, remember_proof
from registry.downloads.plan import (
    DownloadPlan,
    FilePlan,
    file_path,
    free_bytes,
    is_present,
    missing_bytes,
)

#: Bytes that a download leaves free, for the database and takes.
RESERVE_BYTES: Final = 100_000_000

#: Pauses before each further try of a file that did not get further.
PAUSES_SECONDS: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)

_LOCK_WAIT_SECONDS: Final = 0.25
_REPORT_SECONDS: Final = 0.1
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")

OnBytes = Callable[[int, int], None]  # bytes that are there, bytes in all
ShouldStop = Callable[[], bool]


def download(
    plan: DownloadPlan, *, on_bytes: OnBytes, should_stop: ShouldStop, token: str | None = None
) -> Path:
    """Fetch what is missing and answer the folder of the snapshot, complete.

    `on_bytes` hears at most ten times a second, first at once and last with both numbers equal; the first falls
    only when a file has to start over. `should_stop` is asked all the time and must answer at once. May be called
    again after any end, and goes on where it was. Raises DownloadFailed, DownloadCancelled.
    """
    progress = _Progress(plan, on_bytes)
    try:
        _check_disk(plan)
        progress.report()
        for file in plan.files:
            _ensure_blob(plan, file, token, progress, should_stop)
        if plan.listing and read_listing(plan.storage, plan.revision) is None:
            write_listing(plan.storage, plan.revision, plan.listing)
        for file in plan.files:  # weights come last: where they are, all is
            if size_of(plan.folder / file.name) != file.size_bytes:
                link_file(blob_path(plan.storage, file.etag), plan.folder / file.name)
        write_ref(plan.storage, plan.requested_revision, plan.revision)
    except OSError as error:
        raise _storage_failure(error, plan) from error
    progress.report()
    return plan.folder


class _Progress:
    """Bytes that are there of each file, told to the caller now and then."""

    def __init__(self, plan: DownloadPlan, on_bytes: OnBytes) -> None:
        self._total = plan.total_bytes
        self._on_bytes = on_bytes
        self._told_at = 0.0
        self._there = {
            file.name: file.size_bytes
            if _is_there(plan, file)
            else file.size_bytes - missing_bytes(plan.storage, file)
            for file in plan.files
        }

    def set(self, file: FilePlan, there_bytes: int) -> None:
        self._there[file.name] = min(there_bytes, file.size_bytes)
        if time.monotonic() - self._told_at >= _REPORT_SECONDS:
            self.report()

    def report(self) -> None:
        self._told_at = time.monotonic()
        self._on_bytes(sum(self._there.values()), self._total)


def _is_there(plan: DownloadPlan, file: FilePlan) -> bool:
    return is_present(plan.storage, plan.folder, name=file.name, etag=file.etag, size_bytes=file.size_bytes)


def _check_disk(plan: DownloadPlan) -> None:
    missing = sum(missing_bytes(plan.storage, file) for file in plan.files if not _is_there(plan, file))
    free = free_bytes(plan.storage)
    if missing and missing + RESERVE_BYTES > free:
        lacking = missing + RESERVE_BYTES - free
        raise DownloadFailed(
            DISK_FULL,
            f"{plan.repo_id} needs {gigabytes(missing)} more and the disk has {gigabytes(free)} free. Free"
            f" {gigabytes(lacking)} on the disk of the hub's cache, or set HF_HOME to another one.",
            f"{missing} bytes to fetch, {free} free, {RESERVE_BYTES} kept free",
        )


# --- one file ---


def _ensure_blob(
    plan: DownloadPlan, file: FilePlan, token: str | None, progress: _Progress, should_stop: ShouldStop
) -> None:
    if should_stop():
        raise DownloadCancelled
    if not _is_there(plan, file):
        part = part_path(plan.storage, file.etag)

        def watch() -> None:
            """Somebody else fetches it: their bytes are ours."""
            progress.set(file, size_of(part) or 0)

        with _locked(lock_path(plan.storage, file.etag), watch, should_stop):
            if not _is_there(plan, file):
                receiver = _Receiver(plan, file, hub_of(plan.endpoint, token), progress, should_stop)
                with_retries(
                    lambda: _fetch(plan, file, receiver),
                    should_stop=should_stop,
                    pauses_seconds=PAUSES_SECONDS,
                    progress_bytes=lambda: size_of(part) or 0,
                )
    progress.set(file, file.size_bytes)


@contextmanager
def _locked(path: Path, while_waiting: Callable[[], None], should_stop: ShouldStop) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(WeakFileLock(path, timeout=_LOCK_WAIT_SECONDS))
                break
            except Timeout:
                if should_stop():
                    raise DownloadCancelled from None
                while_waiting()
        yield


def _fetch(plan: DownloadPlan, file: FilePlan, receiver: _Receiver) -> None:
    """One try: what is missing of a file, then its hash, then its final name. The lock is held."""
    part, blob = part_path(plan.storage, file.etag), blob_path(plan.storage, file.etag)
    part.parent.mkdir(parents=True, exist_ok=True)
    part.touch()
    is_resumed = receiver.read_part(part)
    try:
        with part.open("r+b") as output:
            output.seek(receiver.there)
            output.truncate()
            if receiver.there < file.size_bytes:
                is_resumed = receiver.receive(output)
            output.flush()
            os.fsync(output.fileno())
        if receiver.hasher.hexdigest() != file.etag:
            raise _corrupt(plan, file, "its hash is not the one that the hub lists")
    except DownloadFailed as failure:
        if failure.error_code != FILE_CORRUPT:
            raise
        part.unlink()
        receiver.start_over()
        if is_resumed:
            # What an earlier try left behind may be what is wrong: once more from the start.
            return _fetch(plan, file, receiver)
        raise
    part.replace(blob)
    remember_proof(blob)
    return None


class _Receiver:
    """Takes in one file, over as many tries as it needs: counts, hashes and writes in step."""

    def __init__(
        self, plan: DownloadPlan, file: FilePlan, hub: Hub, progress: _Progress, should_stop: ShouldStop
    ) -> None:
        self._plan = plan
        self._file = file
        self._hub = hub
        self._progress = progress
        self._should_stop = should_stop
        self.there = 0
        self.hasher = new_hasher(sha256=file.sha256, size_bytes=file.size_bytes)

    def start_over(self) -> None:
        """Forget what has been taken in."""
        self.there = 0
        self._progress.set(self._file, 0)
        self.hasher = new_hasher(sha256=self._file.sha256, size_bytes=self._file.size_bytes)

    def read_part(self, part: Path) -> bool:
        """Take in what is there already; False where that is nothing of use."""
        size = size_of(part) or 0
        if size == self.there:
            return size > 0  # the last try was ours: it is hashed
        if self.there:
            self.start_over()
        if size <= self._file.size_bytes:
            hash_file(part, self.hasher, lambda _: self._stop_if_asked())
            self.there = size
        return self.there > 0

    def receive(self, output: BinaryIO) -> bool:
        """Receive the rest into `output`. Answers whether anything from before was kept."""
        with ExitStack() as opened:
            answer = opened.enter_context(closing(self._open()))
            if self.there and not self._keeps_part(answer.head):
                output.seek(0)
                output.truncate()
                self.start_over()
                if answer.head.status != 200:
                    answer = opened.enter_context(closing(self._open()))
            check_answer(answer.head, self._hub, repo_id=self._plan.repo_id, revision=self._plan.revision)
            if not self.there and answer.head.status != 200:
                raise Interrupted(HUB_ERROR, "The hub sent a part of a file unasked. Try again later.")
            kept = self.there > 0
            self._take(answer, output)
        return kept

    def _open(self) -> Answer:
        path = file_path(self._plan, self._file)
        return Answer(self._hub, path, offset=self.there, should_stop=self._should_stop)

    def _keeps_part(self, head: Head) -> bool:
        """Whether what is there stays: the answer goes on from it, or is a refusal and says nothing about it."""
        if head.status == 206:
            found = _CONTENT_RANGE.fullmatch(head.headers.get("content-range", ""))
            return (
                found is not None
                and int(found[1]) == self.there
                and found[2] in ("*", str(self._file.size_bytes))
            )
        return head.is_html or head.status not in (200, 416)

    def _take(self, answer: Answer, output: BinaryIO) -> None:
        for chunk in answer.chunks():
            if self.there + len(chunk) > self._file.size_bytes:
                raise _corrupt(self._plan, self._file, "it is longer than the hub lists")
            output.write(chunk)
            self.hasher.update(chunk)
            self.there += len(chunk)
            self._progress.set(self._file, self.there)
        if self.there < self._file.size_bytes:
            raise Interrupted(
                INCOMPLETE,
                f"The hub sent less of {self._file.name} than it lists. Try again: it goes on from there.",
                f"{self.there} of {self._file.size_bytes} bytes",
            )

    def _stop_if_asked(self) -> None:
        if self._should_stop():
            raise DownloadCancelled


# --- failures ---


def _corrupt(plan: DownloadPlan, file: FilePlan, reason: str) -> DownloadFailed:
    message = (
        f"{file.name} of {plan.repo_id} arrived damaged and was thrown away. Try again; if it stays so, the hub"
        " or something on the way to it changes files."
    )
    return DownloadFailed(FILE_CORRUPT, message, f"{file.name}: {reason}")


def _storage_failure(error: OSError, plan: DownloadPlan) -> DownloadFailed:
    detail = f"{type(error).__name__}: {error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        message = (
            f"The disk became full while {plan.repo_id} was fetched. Free some space and try again: it goes on"
            " from there."
        )
        return DownloadFailed(DISK_FULL, message, detail)
    message = (
        f"{plan.repo_id} cannot be stored: {error.strerror or error}. Check the folder of the hub's cache."
    )
    return DownloadFailed(STORAGE_ERROR, message, detail)
