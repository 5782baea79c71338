"""Finds a checkpoint's files on the Hugging Face hub and fetches those that the engine reads, and no others.

Answers with a folder of the hub's own cache. Knows nothing of torch or of what is in the files.
"""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm.auto import tqdm

from generation.engine.errors import EngineError
from generation.engine.protocol import CHECKPOINT_NOT_FOUND, ENGINE_ERROR, GATED, HUB_UNREACHABLE

# Everything small at the top of a repository, but for the second copies of weights that official repositories
# hold.
_SMALL_FILES = re.compile(r"[^/]+\.(json|model|txt)")
_SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_BIN = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")


def files_to_fetch(names: Iterable[str]) -> list[str]:
    """Of all files of a repository those the engine reads: configs, tokenizer, and one form of weights."""
    names = sorted(names)
    weights = [name for name in names if _SAFETENSORS.fullmatch(name)]
    unread_index = "pytorch_model.bin.index.json"
    if not weights:
        weights = [name for name in names if _BIN.fullmatch(name)]
        unread_index = "model.safetensors.index.json"
    small = [name for name in names if _SMALL_FILES.fullmatch(name) and name != unread_index]
    return small + weights


def fetch_checkpoint(
    repo_id: str,
    revision: str | None,
    *,
    is_complete: Callable[[Path], bool],
    on_progress: Callable[[float], None],
) -> tuple[Path, str]:
    """The folder that holds a repository's files and the commit they are of.

    What the cache holds complete is used without asking the network; else the missing files are fetched, and
    `on_progress` receives the fraction of bytes done. Raises EngineError CHECKPOINT_NOT_FOUND, GATED,
    HUB_UNREACHABLE or ENGINE_ERROR.
    """
    try:
        folder = _cached_folder(repo_id, revision, is_complete)
        if folder is None:
            folder = _fetch(repo_id, revision, on_progress)
    except Exception as error:
        raise _translated(error, repo_id, revision) from error
    return folder, folder.name  # the cache names the folder of a snapshot by its commit


def _cached_folder(repo_id: str, revision: str | None, is_complete: Callable[[Path], bool]) -> Path | None:
    """The folder of a revision in the cache, where it holds all that would be fetched.

    The library knows from an earlier listing which files of a pattern a repository has, and refuses a folder
    that lacks one, as a download that was broken off does.
    """
    forms = {
        "pytorch_model.bin.index.json": ["model.safetensors", "model-*-of-*.safetensors"],
        "model.safetensors.index.json": ["pytorch_model.bin", "pytorch_model-*-of-*.bin"],
    }
    for unread_index, weights in forms.items():
        try:
            found = snapshot_download(
                repo_id,
                revision=revision,
                allow_patterns=["*.json", "*.model", "*.txt", *weights],
                ignore_patterns=["*/*", unread_index],
                local_files_only=True,
            )
        except LocalEntryNotFoundError:
            continue
        if is_complete(Path(found)):
            return Path(found)
    return None


def _fetch(repo_id: str, revision: str | None, on_progress: Callable[[float], None]) -> Path:
    info = HfApi().model_info(repo_id, revision=revision, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    wanted = files_to_fetch(sizes)
    total = max(1, sum(sizes[name] for name in wanted))
    present = [
        name for name in wanted if isinstance(try_to_load_from_cache(repo_id, name, revision=info.sha), str)
    ]
    done = sum(sizes[name] for name in present)
    counting = threading.Lock()  # several files come at a time, each on a thread of its own
    on_progress(done / total)

    class _Bytes(tqdm):
        """The hub's bar of bytes written, turned into a fraction of all bytes; prints nothing."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # One bar counts files, one bytes received, one bytes written; received ones may be compressed.
            self._counts = kwargs.get("unit") == "B" and "Reconstructing" in str(kwargs.get("desc"))
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal done
            if self._counts:
                with counting:
                    done += int(n or 0)
                    on_progress(min(1.0, done / total))
            updated: bool | None = super().update(n)
            return updated

    folder = snapshot_download(repo_id, revision=revision, allow_patterns=wanted, tqdm_class=_Bytes)
    on_progress(1.0)
    return Path(folder)


def _translated(error: Exception, repo_id: str, revision: str | None) -> EngineError:
    """The engine's error for an exception of the hub's library, by class and status, never by its words."""
    detail = f"{type(error).__name__}: {error}"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, EngineError):
        return error
    if isinstance(error, GatedRepoError):  # a subclass of RepositoryNotFoundError: first
        if status == 403:
            message = (
                f"{repo_id} is gated and this token has no access yet. Ask for access on its page on the hub."
            )
        else:
            message = f"{repo_id} is gated. Set HF_TOKEN to a token whose account has access, then try again."
        return EngineError(GATED, message, detail)
    if isinstance(error, RepositoryNotFoundError):
        message = (
            f"The hub has no model {repo_id} for you to see. Check the id; a private one needs HF_TOKEN."
        )
        return EngineError(CHECKPOINT_NOT_FOUND, message, detail)
    if isinstance(error, RevisionNotFoundError):
        message = f"{repo_id} has no revision {revision!r}. Check the branch, tag or commit."
        return EngineError(CHECKPOINT_NOT_FOUND, message, detail)
    if isinstance(error, HFValidationError):
        message = f"{repo_id!r} is neither a folder nor a hub id such as facebook/musicgen-small."
        return EngineError(CHECKPOINT_NOT_FOUND, message, detail)
    if status is not None:
        message = f"The hub answered {status} when asked for {repo_id}. Try again later."
        return EngineError(HUB_UNREACHABLE, message, detail)
    if isinstance(error, (OfflineModeIsEnabled, LocalEntryNotFoundError, httpx2.HTTPError)):
        message = f"{repo_id} is not on this machine and the hub cannot be reached. Connect and try again."
        return EngineError(HUB_UNREACHABLE, message, detail)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        message = f"The disk is full: {repo_id} could not be stored. Free some space and try again."
        return EngineError(ENGINE_ERROR, message, detail)
    return EngineError(ENGINE_ERROR, f"Fetching {repo_id} failed. The details say where.", detail)
