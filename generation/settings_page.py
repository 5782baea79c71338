"""What the settings page shows: each model with its fit, what is installed and loaded, and the plan of a switch."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings

from gated_configs.wording import rough_seconds
from generation.installation import installed_folder
from generation.models import Job, JobStatus
from generation.partials import reading
from generation.services.hosts import running_host
from generation.switch_card import SwitchCard, switch_card
from registry import downloads
from registry.fit import Fit, fit_of
from registry.hardware import Hardware, read_hardware
from registry.models import ModelConfig, ModelSwitch, SwitchStage
from registry.services import last_switch, list_models, open_switch


@dataclass(frozen=True)
class ModelRow:
    """One line of the table."""

    model: ModelConfig
    fit: Fit | None
    is_installed: bool
    installed_bytes: int | None
    bytes_to_fetch: int | None
    is_bundled: bool
    runner: dict[str, Any] | None
    can_switch: bool


@dataclass(frozen=True)
class SwitchPlan:
    """What a switch would take, told before it starts. `bytes_to_fetch` is None when the hub did not say."""

    model: ModelConfig
    is_reload: bool
    bytes_to_fetch: int | None
    fetch_problem: str
    free_disk_bytes: int
    fit: Fit
    both_fit: bool
    jobs_waiting: int
    job_running: bool
    last_seconds: float | None
    other_switch: SwitchCard | None


def may_switch(user: Any) -> bool:
    """Staff switch models; in local mode the owner is staff."""
    return bool(user.is_staff)


def settings_context(user: Any) -> dict[str, Any]:
    """Everything the page shows."""
    read_at = reading()
    host = running_host()
    runners = host.runners if host is not None else []
    held = sum(runner["memory_bytes"] for runner in runners)
    hardware = read_hardware(held_bytes=held)
    return {
        "read_at": read_at,
        "rows": model_rows(user, runners=runners, hardware=hardware),
        "hardware": hardware,
        "can_switch": may_switch(user),
        "switch_card": shown_switch(),
        "runners_bytes": held,
        "storage_problem": host.last_error if host is not None and host.waits_for_storage else "",
        "no_kernels": host.no_kernels if host is not None else "",
        "engine_device": host.device if host is not None else "",
        "has_idle_runners": any(not runner["is_busy"] for runner in runners),
    }


def shown_switch() -> SwitchCard | None:
    """The switch under way, else the last one when it failed: that one has something to say."""
    switch = last_switch()
    if switch is None or not (switch.is_open or switch.stage == SwitchStage.FAILED):
        return None
    return switch_card(switch)


def model_rows(user: Any, *, runners: list[dict[str, Any]], hardware: Hardware) -> list[ModelRow]:
    """Every model with what is known of it here."""
    by_model = {runner["model_id"]: runner for runner in runners}
    held = sum(runner["memory_bytes"] for runner in runners)
    return [_row(model, by_model.get(model.pk), hardware, held, may_switch(user)) for model in list_models()]


def _row(
    model: ModelConfig, runner: dict[str, Any] | None, hardware: Hardware, held: int, allowed: bool
) -> ModelRow:
    folder = installed_folder(model) if model.is_playable else None
    return ModelRow(
        model=model,
        fit=fit_of(model, hardware, held_bytes=held) if model.is_playable else None,
        is_installed=folder is not None,
        installed_bytes=_folder_bytes(folder) if folder is not None else None,
        bytes_to_fetch=_bytes_to_fetch(model) if folder is None else None,
        is_bundled=bool(model.local_path),
        runner={**runner, "expires_line": _expires_line(model, runner)} if runner is not None else None,
        can_switch=allowed and model.is_playable,
    )


def _expires_line(model: ModelConfig, runner: dict[str, Any]) -> str:
    if model.is_active:
        return "stays loaded"
    if runner["is_busy"]:
        return "in use"
    return (
        f"ends in {rough_seconds(max(1, 60 * settings.STUDIO.keep_alive_minutes - runner['idle_seconds']))}"
    )


def _bytes_to_fetch(model: ModelConfig) -> int | None:
    """About how much a switch would fetch: published weights are float32. The plan asks the hub for the exact figure."""
    return 4 * model.parameters if model.parameters and not model.local_path else None


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def switch_plan(model: ModelConfig, *, is_reload: bool) -> SwitchPlan:
    """What a switch to that model would take. Asks the hub for sizes when the model is not installed."""
    host = running_host()
    runners = host.runners if host is not None else []
    held = sum(runner["memory_bytes"] for runner in runners)
    hardware = read_hardware(held_bytes=held)
    fit = fit_of(model, hardware, held_bytes=held)
    bytes_to_fetch: int | None = 0
    home = Path(settings.STUDIO.home)
    free_disk = shutil.disk_usage(home if home.exists() else home.parent).free
    problem = ""
    if installed_folder(model) is None:
        try:
            download = downloads.plan_download(model.hf_model_id, model.revision)
            bytes_to_fetch, free_disk = download.missing_bytes, download.free_disk_bytes
        except downloads.DownloadFailed as refused:
            bytes_to_fetch, problem = None, str(refused)
    other = open_switch()
    last = ModelSwitch.objects.filter(model=model, stage=SwitchStage.READY).order_by("-id").first()
    return SwitchPlan(
        model=model,
        is_reload=is_reload,
        bytes_to_fetch=bytes_to_fetch,
        fetch_problem=problem,
        free_disk_bytes=free_disk,
        fit=fit,
        both_fit=fit.needed_bytes <= hardware.free_bytes,
        jobs_waiting=Job.objects.filter(status=JobStatus.QUEUED).count(),
        job_running=Job.objects.filter(status=JobStatus.RUNNING).exists(),
        last_seconds=last.elapsed_seconds if last is not None else None,
        other_switch=switch_card(other) if other is not None else None,
    )
