"""The hub library's cache on disk: its folders, what of a model is in it, and how to put a file in or take it out.

Layout: models--owner--name/{blobs/<hash>, snapshots/<commit>/<name> -> blob, refs/<revision>, trees/<commit>.json}.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from huggingface_hub import constants, scan_cache_dir
from huggingface_hub.errors import CacheNotFound, HFValidationError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from registry.downloads.files import has_tokenizer, read_json, wanted_files, weight_files

#: The revision that is meant where none is named.
DEFAULT_REVISION: Final = "main"
COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"(?!.*(\.\.|//))[A-Za-z0-9][A-Za-z0-9._/-]{0,199}(?<![/.])")

_LARGE_BYTES: Final = 10_000_000

#: The library's own number for the form of its listings on disk.
_LISTING_VERSION: Final = 1


def cache_folder() -> Path:
    """The library's cache, from the environment as it is now; the library reads it only once."""
    default_home = os.path.join(os.getenv("XDG_CACHE_HOME", constants.default_home), "huggingface")  # noqa: PTH118
    home = os.path.expandvars(Path(os.getenv("HF_HOME", default_home)).expanduser())
    old = os.getenv("HUGGINGFACE_HUB_CACHE", str(Path(home, "hub")))
    return Path(os.path.expandvars(Path(os.getenv("HF_HUB_CACHE", old)).expanduser()))


def storage_folder(repo_id: str, cache: Path | None = None) -> Path:
    """The folder of everything the cache holds of a repository. Raises ValueError for an id that cannot be one."""
    if not is_repo_id(repo_id):
        raise ValueError(f"{repo_id!r} is no hub id")
    return Path(cache or cache_folder()) / repo_folder_name(repo_id=repo_id, repo_type="model")


def is_repo_id(repo_id: str) -> bool:
    """Whether a text can be the id of a repository."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        return False
    return True


def is_revision(revision: str) -> bool:
    """Whether a text can be a branch, tag or commit, and is safe as a path below `refs`."""
    return _REVISION.fullmatch(revision) is not None


def blob_path(storage: Path, etag: str) -> Path:
    """Where a file of that hash lies."""
    return storage / "blobs" / etag


def part_path(storage: Path, etag: str) -> Path:
    """Where what has arrived of a file of that hash lies."""
    return storage / "blobs" / f"{etag}.incomplete"


def lock_path(storage: Path, etag: str) -> Path:
    """The lock that the library, too, holds while it fetches a file of that hash."""
    return storage.parent / ".locks" / storage.name / f"{etag}.lock"


def size_of(path: Path) -> int | None:
    """Bytes of a file, through links; None where there is none."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


# --- what is installed ---


def installed_folder(repo_id: str, revision: str = "", *, cache: Path | None = None) -> Path | None:
    """The folder of a revision, if the cache holds all its files that are read. Asks nobody.

    An empty `revision` means what `main` was when it was last fetched.
    """
    try:
        storage = storage_folder(repo_id, cache)
    except ValueError:
        return None
    commit = _known_commit(storage, revision or DEFAULT_REVISION)
    if commit is None:
        return None
    folder = storage / "snapshots" / commit
    if not folder.is_dir():
        return None
    listing = read_listing(storage, commit)
    if listing is None:
        # Fetched by an older library: what a checkpoint must have is all that can be asked for.
        complete = (folder / "config.json").is_file() and has_tokenizer(folder) and bool(weight_files(folder))
    else:
        wanted = wanted_files(listing)
        complete = bool(wanted) and all(size_of(folder / name) == listing[name]["size"] for name in wanted)
    return folder if complete else None


def _known_commit(storage: Path, revision: str) -> str | None:
    if COMMIT.fullmatch(revision):
        return revision
    if not is_revision(revision):
        return None
    try:
        commit = (storage / "refs" / revision).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return commit if COMMIT.fullmatch(commit) else None


def read_listing(storage: Path, commit: str) -> dict[str, dict[str, Any]] | None:
    """Size and hashes of all files of a commit, as they were noted when it was fetched; None if they were not."""
    try:
        noted = read_json(storage / "trees" / f"{commit}.json")
        if noted["format_version"] != _LISTING_VERSION:
            return None
        return {str(name): {**entry, "size": int(entry["size"])} for name, entry in noted["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_listing(storage: Path, commit: str, listing: Mapping[str, Mapping[str, Any]]) -> None:
    """Note size and hashes of all files of a commit, in the library's own form."""
    content = {"format_version": _LISTING_VERSION, "files": dict(sorted(listing.items()))}
    _write(storage / "trees" / f"{commit}.json", json.dumps(content, indent=1))


# --- putting in ---


def write_ref(storage: Path, revision: str, commit: str) -> None:
    """Note which commit a branch or tag was."""
    if revision != commit:
        _write(storage / "refs" / revision, commit)


def link_file(blob: Path, pointer: Path) -> None:
    """Make `pointer` of a snapshot the file `blob`: a link, or the file itself where there are no links."""
    if pointer.exists() and blob.exists() and pointer.samefile(blob):
        return
    pointer.parent.mkdir(parents=True, exist_ok=True)
    temporary = pointer.with_name(f".{pointer.name}.{uuid.uuid4().hex[:8]}")
    try:
        if constants.HF_HUB_DISABLE_SYMLINKS:
            raise NotImplementedError
        temporary.symlink_to(os.path.relpath(blob, pointer.parent))
    except (OSError, NotImplementedError):
        try:
            temporary.hardlink_to(blob)
        except (OSError, NotImplementedError):
            if blob.stat().st_size > _LARGE_BYTES:
                temporary = blob  # moved, as the library does: a copy would take the space twice
            else:
                shutil.copyfile(blob, temporary)  # may be another file's content, too
    temporary.replace(pointer)


def discard(path: Path) -> bool:
    """Take a damaged file of a snapshot out of the cache, with its blob. False where it is not in a cache."""
    storage = path.parent.parent.parent
    if path.parent.parent.name != "snapshots" or not (storage / "blobs").is_dir():
        return False
    if path.is_symlink():
        blob = Path(os.path.normpath(path.parent / path.readlink()))
        if blob.parent != storage / "blobs":
            return False
        blob.unlink(missing_ok=True)
    else:
        for blob in (storage / "blobs").iterdir():
            if blob.samefile(path):
                blob.unlink()
    path.unlink()
    return True


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


# --- taking out ---


def installed_bytes(repo_id: str, *, cache: Path | None = None) -> int:
    """Bytes that all revisions of a model take on disk, parts of broken downloads included."""
    try:
        return sum(_files_of(storage_folder(repo_id, cache)).values())
    except ValueError:
        return 0


def remove_installed(repo_id: str, *, cache: Path | None = None) -> int:
    """Take all revisions of a model out of the cache, and answer the bytes that this freed.

    Raises OSError where files cannot be removed; calling again goes on.
    """
    try:
        storage = storage_folder(repo_id, cache)
    except ValueError:
        return 0
    before = _files_of(storage)
    if not storage.is_dir():
        return 0
    # The library knows which files are shared between models.
    try:
        repositories = scan_cache_dir(storage.parent)
    except CacheNotFound:
        return 0
    commits = [
        revision.commit_hash
        for repository in repositories.repos
        if repository.repo_type == "model" and repository.repo_path == storage.resolve()
        for revision in repository.revisions
    ]
    strategy = repositories.delete_revisions(*commits)
    # First what makes it look installed, so that nothing half removed ever does.
    for name in ("refs", "snapshots"):
        if (storage / name).is_dir():
            shutil.rmtree(storage / name)
    if commits:
        strategy.execute()
    if storage.is_dir():
        shutil.rmtree(storage)
    return sum(size for path, size in before.items() if not path.exists())


def _files_of(storage: Path) -> dict[Path, int]:
    """Bytes of each file that a repository keeps, once each, whatever links lead to it."""
    sizes: dict[Path, int] = {}
    seen: set[tuple[int, int]] = set()
    for parent, _, names in os.walk(storage):
        for name in names:
            path = Path(parent, name).resolve()
            try:
                stat = path.stat()
            except OSError:
                continue  # a link to nothing
            if (stat.st_dev, stat.st_ino) not in seen:
                seen.add((stat.st_dev, stat.st_ino))
                sizes[path] = stat.st_size
    return sizes
