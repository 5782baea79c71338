"""What the engine is doing right now, in words for the chip of every page. Reads rows only."""

from __future__ import annotations

from dataclasses import dataclass

from generation.models import EngineHost, Job
from generation.services.hosts import running_host
from registry.models import ModelConfig, ModelSwitch
from registry.services import open_switch

_DEVICE_WORDS = {"cpu": "CPU", "cuda": "GPU", "mps": "Apple GPU"}
_LOADING_WORDS = {"downloading": "downloading", "reading weights": "loading", "preparing": "loading"}


@dataclass(frozen=True)
class EngineState:
    """The engine in a few words. `state` is one of ready, starting, loading, working, waiting, switching, none."""

    state: str
    state_word: str
    model_name: str
    device: str
    label: str
    detail: str
    queue_length: int
    runner_memory_bytes: int | None
    host: str


def device_word(device: str) -> str:
    """`cuda -> "GPU"`, `cpu -> "CPU"`."""
    return _DEVICE_WORDS.get(device, device.upper())


def engine_state() -> EngineState:
    """The state that pages show."""
    host = running_host()
    active = ModelConfig.objects.filter(is_active=True).first()
    shown = active
    if host is not None and host.model_id:
        shown = ModelConfig.objects.filter(pk=host.model_id).first() or active
    model_name = shown.display_name if shown is not None else "no model"
    queue_length = Job.objects.unfinished().count()
    if host is None:
        return EngineState(
            state="none",
            state_word="no engine",
            model_name=model_name,
            device="",
            label="no engine",
            detail="No engine is running. Jobs wait until `manage.py serve` or `manage.py runworker generation` runs.",
            queue_length=queue_length,
            runner_memory_bytes=None,
            host="",
        )
    switch = open_switch()
    if switch is not None:
        return _switching(switch, host, queue_length)
    device = device_word(host.device)
    parts, detail, state = _words_for(host, model_name, device)
    return EngineState(
        state=state,
        state_word="waiting" if state == "waiting" else parts[-1],
        model_name=model_name,
        device=device,
        label=" · ".join(part for part in parts if part),
        detail=detail,
        queue_length=queue_length,
        runner_memory_bytes=host.runner_memory_bytes,
        host=host.hostname,
    )


def _switching(switch: ModelSwitch, host: EngineHost, queue_length: int) -> EngineState:
    """A switch is what everybody wants to know about while it lasts."""
    name = switch.model.display_name
    label = f"{'reloading' if switch.is_reload else 'switching to'} {name}"
    if switch.fraction is not None:
        label += f" {round(switch.fraction * 100)}%"
    return EngineState(
        state="switching",
        state_word="switching",
        model_name=name,
        device=device_word(host.device),
        label=label,
        detail=f"{switch.get_stage_display()}. Jobs can be queued meanwhile.",
        queue_length=queue_length,
        runner_memory_bytes=host.runner_memory_bytes,
        host=host.hostname,
    )


def _words_for(host: EngineHost, model_name: str, device: str) -> tuple[list[str], str, str]:
    if host.waits_for_storage:
        return (
            [model_name, "waiting for storage"],
            f"{host.last_error} Jobs wait until it can be used.",
            "waiting",
        )
    if host.state == "loading":
        word = _LOADING_WORDS.get(host.stage, "starting")
        if host.stage_fraction is not None:
            word = f"{word} {round(host.stage_fraction * 100)}%"
        return [model_name, word], f"{model_name} is being loaded. Jobs can be queued meanwhile.", "loading"
    if host.state == "working":
        return [model_name, device, "working"], f"{model_name} is making music on {_place(host)}.", "working"
    if host.state == "ready":
        return [model_name, device, "ready"], f"{model_name} is loaded on {_place(host)}.", "ready"
    if host.state == "stopping":
        detail = "The engine finishes what it has in hand and ends. Jobs wait until one runs again."
        return [model_name, "stopping"], detail, "starting"
    if host.state == "starting":
        return [model_name, "starting"], "The engine is starting. Jobs can be queued meanwhile.", "starting"
    if host.last_error:
        return [model_name, "not loaded"], host.last_error, "none"
    return [model_name, "resting"], "No model is loaded. The next job loads the one it needs.", "starting"


def _place(host: EngineHost) -> str:
    return f"{host.device_name or host.device} in {host.dtype}" if host.device else "this machine"
