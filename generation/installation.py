"""Where a model's checkpoint lies on this machine; fetched from the hub when it is not there yet.

Hub and disk work runs in threads of its own. Knows downloads and rows, not runners.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

from registry import downloads
from registry.models import ModelConfig


def installed_folder(model: ModelConfig) -> Path | None:
    """Folder of a complete checkpoint on this machine, without asking the network; None when there is none."""
    if model.local_path:
        folder = Path(model.checkpoint)
        return folder if folder.is_dir() else None
    return downloads.installed_folder(model.hf_model_id, model.revision)


async def fetch(
    model: ModelConfig, *, on_bytes: Callable[[int, int], None], stop: threading.Event
) -> tuple[Path, downloads.DownloadPlan | None]:
    """The folder of the model's checkpoint, fetched where it is missing. Raises DownloadFailed, DownloadCancelled."""
    return await asyncio.to_thread(_fetch, model, on_bytes, stop)


def _fetch(
    model: ModelConfig, on_bytes: Callable[[int, int], None], stop: threading.Event
) -> tuple[Path, downloads.DownloadPlan | None]:
    folder = installed_folder(model)
    if folder is not None:
        return folder, None
    if model.local_path:
        raise downloads.DownloadFailed(
            "CHECKPOINT_NOT_FOUND",
            f"The folder of {model.display_name}, {model.checkpoint}, is not there. Correct it in the admin.",
        )
    plan = downloads.plan_download(model.hf_model_id, model.revision, should_stop=stop.is_set)
    return downloads.download(plan, on_bytes=on_bytes, should_stop=stop.is_set), plan


async def verify(
    folder: Path,
    plan: downloads.DownloadPlan | None,
    *,
    on_fraction: Callable[[float], None],
    stop: threading.Event,
) -> None:
    """Check that the folder holds a whole checkpoint that can be played. Raises DownloadFailed, DownloadCancelled."""
    await asyncio.to_thread(
        downloads.verify_checkpoint, folder, plan=plan, on_fraction=on_fraction, should_stop=stop.is_set
    )
