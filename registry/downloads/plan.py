"""Says what a download would fetch before it starts: the commit, the files that are read, sizes and hashes.

Asks the hub for one listing and reads the cache; changes nothing.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from gated_configs.hub.client import Answer, Hub, hub_of, with_retries
from gated_configs.hub.errors import (
    HUB_UNREACHABLE,
    MODEL_NOT_FOUND,
    REVISION_NOT_FOUND,
    WRONG_ARCHITECTURE,
    DownloadFailed,
    Interrupted,
)
from gated_configs.hub.refusals import check_answer, not_a_hub
from registry.downloads.cache import (
    COMMIT,
    DEFAULT_REVISION,
    blob_path,
    is_repo_id,
    is_revision,
    part_path,
    size_of,
    storage_folder,
)
from registry.downloads.files import has_weights, wanted_files

#: Bounds of what a hub may tell us. The largest real listings hold a few thousand files.
MAX_LISTING_BYTES: Final = 16 * 1024 * 1024
MAX_LISTED_FILES: Final = 20_000
MAX_WANTED_FILES: Final = 500
MAX_FILE_BYTES: Final = 2 * 10**12

#: Pauses before each further try. Short ones: somebody waits for the plan.
PAUSES_SECONDS: tuple[float, ...] = (0.5, 1.5)

_LISTING_SECONDS: Final = 30.0
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FilePlan:
    """One file that is read. It has a `sha256` in the large file storage, else a `git_sha1`."""

    name: str
    size_bytes: int
    sha256: str | None
    git_sha1: str | None
    present: bool

    @property
    def etag(self) -> str:
        """The hash under which the cache keeps it."""
        return self.sha256 or self.git_sha1 or ""


@dataclass(frozen=True)
class DownloadPlan:
    """What a download of one commit needs. `missing_bytes` leaves out what a broken download left behind."""

    repo_id: str
    revision: str  # the commit
    files: tuple[FilePlan, ...]
    total_bytes: int
    missing_bytes: int
    folder: Path  # of the snapshot, whether it is there yet or not
    free_disk_bytes: int
    requested_revision: str = DEFAULT_REVISION  # branch, tag or commit that was asked for
    endpoint: str | None = None  # None: where the environment says
    listing: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)

    @property
    def storage(self) -> Path:
        """The cache's folder for the repository."""
        return self.folder.parent.parent


def plan_download(
    repo_id: str,
    revision: str = "",
    *,
    endpoint: str | None = None,
    cache: Path | None = None,
    token: str | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    choose: Callable[[str, Mapping[str, int]], list[str]] | None = None,
) -> DownloadPlan:
    """Ask the hub what a revision holds; an empty one means `main`. Raises DownloadFailed, DownloadCancelled.

    `endpoint`, `cache` and `token` are those of the environment where they are None. `choose` picks the files that
    are read from the repository's id and sizes by name, or raises; by itself the plan is for a checkpoint.
    """
    revision = revision or DEFAULT_REVISION
    hub = hub_of(endpoint, token)
    if not is_repo_id(repo_id):
        raise DownloadFailed(
            MODEL_NOT_FOUND,
            f"{repo_id!r} is not a hub id. Write it as owner/name, such as facebook/musicgen-small.",
        )
    if not is_revision(revision):
        raise DownloadFailed(
            REVISION_NOT_FOUND, f"{revision!r} is not a revision. Write a branch, a tag or a commit hash."
        )
    told = with_retries(
        lambda: _ask(hub, repo_id, revision, should_stop),
        should_stop=should_stop,
        pauses_seconds=PAUSES_SECONDS,
    )
    commit, listing = _read(told, hub, revision)
    sizes = {name: int(entry["size"]) for name, entry in listing.items()}
    wanted = (choose or _checkpoint_files)(repo_id, sizes)
    if len(wanted) > MAX_WANTED_FILES:
        raise not_a_hub(hub, f"{len(wanted)} files to read at {repo_id}")
    if told.get("gated"):
        # The listing of a gated model is open to all, its files are not.
        path = _file_path(repo_id, commit, "config.json" if "config.json" in wanted else wanted[0])
        with_retries(
            lambda: _probe(hub, path, repo_id, revision, should_stop),
            should_stop=should_stop,
            pauses_seconds=PAUSES_SECONDS,
        )
    storage = storage_folder(repo_id, cache)
    folder = storage / "snapshots" / commit
    files = tuple(_file_plan(name, listing[name], folder) for name in wanted)
    return DownloadPlan(
        repo_id=repo_id,
        revision=commit,
        files=files,
        total_bytes=sum(file.size_bytes for file in files),
        missing_bytes=sum(missing_bytes(storage, file) for file in files if not file.present),
        folder=folder,
        free_disk_bytes=free_bytes(storage),
        requested_revision=revision,
        endpoint=endpoint,
        listing=listing,
    )


def _checkpoint_files(repo_id: str, sizes: Mapping[str, int]) -> list[str]:
    """The files of a checkpoint that are read. Raises DownloadFailed where there is none."""
    wanted = wanted_files(sizes)
    if not has_weights(wanted) or "config.json" not in wanted:
        raise DownloadFailed(
            WRONG_ARCHITECTURE,
            f"{repo_id} holds no MusicGen model in the files that are read. Choose a MusicGen model.",
            f"config.json and model.safetensors or pytorch_model.bin are not both among {len(sizes)} files",
        )
    return wanted


def file_path(plan: DownloadPlan, file: FilePlan) -> str:
    """The path of a file at the hub."""
    return _file_path(plan.repo_id, plan.revision, file.name)


def is_present(storage: Path, folder: Path, *, name: str, etag: str, size_bytes: int) -> bool:
    """Whether the cache holds a file whole, in the snapshot or for another one."""
    return size_bytes in (size_of(folder / name), size_of(blob_path(storage, etag)))


def missing_bytes(storage: Path, file: FilePlan) -> int:
    """Bytes of a file that have not arrived yet."""
    arrived = size_of(part_path(storage, file.etag)) or 0
    return file.size_bytes - arrived if arrived <= file.size_bytes else file.size_bytes


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk that a folder is on, or will be on."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    return shutil.disk_usage(there).free


def _file_path(repo_id: str, commit: str, name: str) -> str:
    return f"/{repo_id}/resolve/{commit}/{quote(name, safe='')}"


def _ask(hub: Hub, repo_id: str, revision: str, should_stop: Callable[[], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + _LISTING_SECONDS
    path = f"/api/models/{repo_id}/revision/{quote(revision, safe='')}?blobs=true"
    with closing(Answer(hub, path, should_stop=should_stop)) as answer:
        check_answer(answer.head, hub, repo_id=repo_id, revision=revision)
        content = bytearray()
        for chunk in answer.chunks():
            content += chunk
            if len(content) > MAX_LISTING_BYTES:
                raise not_a_hub(hub, f"a listing of more than {MAX_LISTING_BYTES} bytes")
            if time.monotonic() > deadline:
                raise Interrupted(HUB_UNREACHABLE, "The hub answers too slowly. Try again later.")
    try:
        told = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise not_a_hub(hub, f"a listing that is not JSON: {type(error).__name__}") from error
    if not isinstance(told, dict):
        raise not_a_hub(hub, "a listing that is not an object")
    return told


def _probe(hub: Hub, path: str, repo_id: str, revision: str, should_stop: Callable[[], bool]) -> None:
    with closing(Answer(hub, path, should_stop=should_stop, method="HEAD")) as answer:
        check_answer(answer.head, hub, repo_id=repo_id, revision=revision)


def _read(told: dict[str, Any], hub: Hub, revision: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """Commit, and size and hashes by name in the form the library notes them in."""
    commit, siblings = told.get("sha"), told.get("siblings")
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit) or not isinstance(siblings, list):
        raise not_a_hub(hub, "a listing without commit or files")
    if COMMIT.fullmatch(revision) and commit != revision:
        raise not_a_hub(hub, f"asked for commit {revision}, got {commit}")
    if len(siblings) > MAX_LISTED_FILES:
        raise not_a_hub(hub, f"a listing of {len(siblings)} files")
    listing: dict[str, dict[str, Any]] = {}
    for each in siblings:
        try:
            entry: dict[str, Any] = {"size": each["size"], "blob_id": each["blobId"]}
            if each.get("lfs"):
                entry |= {"lfs_sha256": each["lfs"]["sha256"], "lfs_size": each["lfs"]["size"]}
            name = each["rfilename"]
        except (KeyError, TypeError, AttributeError) as error:
            raise not_a_hub(hub, "a listing without sizes or hashes") from error
        if not _is_sound(name, entry):
            raise not_a_hub(hub, "a listing with a size or hash that cannot be one")
        listing[name] = entry
    return commit, listing


def _is_sound(name: object, entry: Mapping[str, Any]) -> bool:
    sizes = [entry["size"], entry.get("lfs_size", entry["size"])]
    return (
        isinstance(name, str)
        and all(type(size) is int and 0 <= size <= MAX_FILE_BYTES for size in sizes)
        and sizes[0] == sizes[1]
        and isinstance(entry["blob_id"], str)
        and COMMIT.fullmatch(entry["blob_id"]) is not None
        and _SHA256.fullmatch(str(entry.get("lfs_sha256", "0" * 64))) is not None
    )


def _file_plan(name: str, entry: Mapping[str, Any], folder: Path) -> FilePlan:
    sha256 = entry.get("lfs_sha256")
    return FilePlan(
        name=name,
        size_bytes=entry["size"],
        sha256=sha256,
        git_sha1=None if sha256 else entry["blob_id"],
        present=is_present(
            folder.parent.parent,
            folder,
            name=name,
            etag=sha256 or entry["blob_id"],
            size_bytes=entry["size"],
        ),
    )
