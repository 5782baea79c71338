"""Fetches an adapter's files from the Hugging Face hub: two or three of them, checked against the hub's own hashes.

Uses the downloader of the models, with a cache that lasts for this import only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from adapters.format.errors import AdapterRefused
from adapters.importing.contents import (
    CONFIG_NAME,
    MAX_CONFIG_BYTES,
    README_NAME,
    WEIGHTS_NAME,
    Arrived,
    choose_files,
)
from adapters.importing.store import DISK_FULL, check_room
from adapters.importing.zip_directory import too_large
from gated_configs.hub.errors import DISK_FULL as DOWNLOAD_DISK_FULL
from gated_configs.hub.errors import MODEL_NOT_FOUND, STORAGE_ERROR
from registry.downloads import DownloadCancelled, DownloadFailed, download, plan_download

ADAPTER_NOT_ON_HUB: Final = "ADAPTER_NOT_ON_HUB"
IMPORT_CANCELLED: Final = "IMPORT_CANCELLED"

_ADDRESS = re.compile(
    r"https://(huggingface\.co|hf\.co)/(?P<id>[\w.-]+/[\w.-]+)(/tree/(?P<revision>[\w./-]+))?/?"
)
_MAX_README_BYTES: Final = 1_000_000


def parse_hub_id(text: str) -> tuple[str, str]:
    """Id and revision from `owner/name`, `owner/name@revision` or the address of the repository's page."""
    text = text.strip()
    # Of the hub alone: what another site has under the same name is something else.
    if found := _ADDRESS.fullmatch(text):
        return found["id"], found["revision"] or ""
    repo_id, _, revision = text.partition("@")
    return repo_id, revision


def fetch(
    hub_id: str,
    folder: Path,
    *,
    max_bytes: int,
    revision: str = "",
    should_stop: Callable[[], bool] = lambda: False,
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
) -> Arrived:
    """Fetch the adapter's config, weights and README into `folder`, which exists.

    Of a repository without an adapter nothing is fetched; its names say what it is. Raises AdapterRefused.
    """
    listed: list[str] = []

    def choose(repo_id: str, sizes: Mapping[str, int]) -> list[str]:
        listed.extend(sizes)
        return _choose(repo_id, sizes, max_bytes)

    try:
        plan = plan_download(hub_id, revision, cache=folder, choose=choose, should_stop=should_stop)
        check_room(folder, plan.total_bytes)
        snapshot = download(plan, on_bytes=on_bytes, should_stop=should_stop)
    except _NothingToFetch:
        return Arrived(name=_name_of(hub_id), config=None, weights=None, names=tuple(listed))
    except DownloadCancelled as cancelled:
        raise AdapterRefused(IMPORT_CANCELLED, "The import was cancelled. Nothing was kept.") from cancelled
    except DownloadFailed as failure:
        raise _refusal(failure, hub_id) from failure
    chosen = choose_files(listed, where="repository")
    weights = snapshot / (chosen.weights or WEIGHTS_NAME)
    weights.resolve().replace(folder / WEIGHTS_NAME)
    return Arrived(
        name=_name_of(hub_id),
        config=snapshot / CONFIG_NAME if chosen.config else None,
        weights=folder / WEIGHTS_NAME,
        readme=snapshot / README_NAME if (snapshot / README_NAME).is_file() else None,
        names=tuple(listed),
        left_out=chosen.left_out,
        revision=plan.revision,
    )


class _NothingToFetch(Exception):
    """The names alone say that this is no adapter."""


def _choose(repo_id: str, sizes: Mapping[str, int], max_bytes: int) -> list[str]:
    top = [name for name in sizes if "/" not in name]
    chosen = choose_files(sizes, where="repository")
    if chosen.weights is None or (chosen.config is None and chosen.weights != WEIGHTS_NAME):
        raise _NothingToFetch
    if chosen.weights not in top:
        # The one folder around everything that a zip may have is not how repositories are made.
        raise _NothingToFetch
    if sizes[chosen.weights] > max_bytes:
        raise too_large(max_bytes, f"{sizes[chosen.weights]} bytes")
    if chosen.config is not None and sizes[chosen.config] > MAX_CONFIG_BYTES:
        raise AdapterRefused(
            "CONFIG_TOO_LARGE", f"{CONFIG_NAME} of {repo_id} is larger than 1 MB, and one is a few lines."
        )
    small = [chosen.config, chosen.readme if sizes.get(chosen.readme or "", 0) <= _MAX_README_BYTES else None]
    return [*(name for name in small if name is not None), chosen.weights]


def _name_of(hub_id: str) -> str:
    return hub_id.rsplit("/", 1)[-1]


def _refusal(failure: DownloadFailed, hub_id: str) -> AdapterRefused:
    """The downloader's sentence, but where it speaks of a model or of the hub's cache."""
    code, message = failure.error_code, str(failure)
    if code == MODEL_NOT_FOUND and "is not a hub id" not in message:
        code = ADAPTER_NOT_ON_HUB
        message = f"The hub has no adapter {hub_id[:200]} for you to see. Check the id; a private one needs HF_TOKEN."
    elif code == MODEL_NOT_FOUND:
        code = ADAPTER_NOT_ON_HUB
        message = f"{hub_id[:200]!r} is not a hub id. Write it as owner/name, as in the address of its page."
    elif code in (DOWNLOAD_DISK_FULL, STORAGE_ERROR):
        code = DISK_FULL if code == DOWNLOAD_DISK_FULL else code
        message = (
            "The studio's disk became full, and nothing was kept. Free some space and try again."
            if code == DISK_FULL
            else message
        )
    return AdapterRefused(code, message, failure.detail)
