"""Verbs of switching: ask for another model, cancel, and what the engine host writes while it carries it out.

The row is the switch. Losing a race is a return value; refusing is an error with a sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from gated_configs.deeds import tell_deed
from registry.events import EngineChanged, SwitchChanged, SwitchRequested, send_on_commit
from registry.fit import measured_as
from registry.models import ModelConfig, ModelSwitch, SwitchStage
from registry.services.models import ModelNotPlayable, activate_model, get_active_model, get_model_config

#: Switches that remaining times are told from.
RECENT: Final = 5


class SwitchUnderWay(RuntimeError):
    """Another switch has not ended yet. `str()` is the sentence for people."""

    def __init__(self, switch: ModelSwitch) -> None:
        self.switch = switch
        super().__init__(
            f"A switch to {switch.model.display_name} is under way ({switch.get_stage_display().lower()})."
            " Wait for it to end, or cancel it."
        )


@dataclass(frozen=True)
class SwitchAnswer:
    """What became of a request. `outcome` is "started", "joined" or "already active"; only the last has no switch."""

    outcome: str
    model: ModelConfig
    switch: ModelSwitch | None

    @property
    def sentence(self) -> str:
        """What happened, for people."""
        return {
            "started": f"Switching to {self.model.display_name}.",
            "joined": f"A switch to {self.model.display_name} is already under way.",
            "already active": f"{self.model.display_name} is already active. Reload it to start it anew.",
        }[self.outcome]


def open_switch() -> ModelSwitch | None:
    """The switch that is under way."""
    return ModelSwitch.objects.filter(open_slot=True).select_related("model", "previous").first()


def last_switch() -> ModelSwitch | None:
    """The switch under way, else the newest that ended."""
    return ModelSwitch.objects.select_related("model", "previous").order_by("-id").first()


def request_switch(model: ModelConfig | str, user: Any = None, *, reload: bool = False) -> SwitchAnswer:
    """Ask for another active model; `reload` starts the active one anew.

    A second request for the same model joins the first. Raises ModelNotFound, ModelNotPlayable, SwitchUnderWay.
    """
    wanted = get_model_config(model) if isinstance(model, str) else model
    if not wanted.is_playable:
        raise ModelNotPlayable(wanted)
    with transaction.atomic():
        under_way = open_switch()
        if under_way is not None:
            return _joined(under_way, wanted)
        active = get_active_model()
        if wanted.pk == active.pk and not reload:
            return SwitchAnswer("already active", wanted, None)
        try:
            # A savepoint of its own: when somebody was faster, the outer transaction must stay usable.
            with transaction.atomic():
                switch = ModelSwitch.objects.create(
                    model=wanted,
                    previous=active,
                    requested_by=user if getattr(user, "pk", None) else None,
                    is_reload=wanted.pk == active.pk,
                )
        except IntegrityError:
            under_way = open_switch()
            if under_way is None:
                raise
            return _joined(under_way, wanted)
        tell_deed("switch.requested", switch, by=switch.requested_by)
        send_on_commit(SwitchRequested(), SwitchChanged())
    return SwitchAnswer("started", wanted, switch)


def _joined(under_way: ModelSwitch, wanted: ModelConfig) -> SwitchAnswer:
    if under_way.model_id != wanted.pk:
        raise SwitchUnderWay(under_way)
    return SwitchAnswer("joined", wanted, under_way)


def cancel_switch(switch: ModelSwitch) -> bool:
    """Ask for the end of a switch. False when it is loading or has ended: then it ends by itself."""
    if not switch.can_be_cancelled:
        return False
    with transaction.atomic():
        if switch.stage == SwitchStage.QUEUED and switch.change_stage(
            SwitchStage.CANCELLED, message="Cancelled before it began. Nothing changed."
        ):
            tell_deed("switch.cancelled", switch)
            send_on_commit(SwitchChanged(finished=True))
            return True
        asked = ModelSwitch.objects.filter(
            pk=switch.pk, stage__in=[stage for stage in SwitchStage if _can_cancel(stage)]
        ).update(cancel_requested_at=timezone.now())
        if asked:
            tell_deed("switch.cancelled", switch)
            send_on_commit(SwitchRequested(), SwitchChanged())
    return bool(asked)


def _can_cancel(stage: str) -> bool:
    return ModelSwitch(stage=stage).can_be_cancelled


# What an engine host does.


def _lease() -> timedelta:
    """How long a host may hold a switch without renewing. It renews several times a second while it works."""
    return timedelta(seconds=settings.STUDIO.lease_seconds)


def claim_switch(host: str) -> ModelSwitch | None:
    """The switch that waits to be carried out, now held by `host`; None when there is none."""
    waiting = ModelSwitch.objects.filter(stage=SwitchStage.QUEUED, host="")
    # Asked twice a second by an engine at rest, and a fraction of what the rows cost.
    if not waiting.exists() or (switch := waiting.select_related("model", "previous").first()) is None:
        return None
    claimed = ModelSwitch.objects.filter(pk=switch.pk, stage=SwitchStage.QUEUED, host="").update(
        host=host, lease_expires_at=timezone.now() + _lease()
    )
    if not claimed:
        return None
    switch.host = host
    return switch


def write_switch_progress(switch: ModelSwitch, host: str) -> bool | None:
    """Store how far the switch is and renew its lease. True when a cancel was asked for, None when it is not ours."""
    held = ModelSwitch.objects.filter(pk=switch.pk, open_slot=True, host=host)
    updated = held.update(
        fraction=switch.fraction,
        bytes_done=switch.bytes_done,
        bytes_total=switch.bytes_total,
        lease_expires_at=timezone.now() + _lease(),
    )
    if not updated:
        return None
    return held.filter(cancel_requested_at__isnull=False).exists()


def enter_stage(switch: ModelSwitch, stage: SwitchStage, *, host: str, **fields: Any) -> bool:
    """Move a switch that `host` holds on. False when it is no longer ours."""
    moved = switch.change_stage(stage, held_by=host, **fields)
    if moved:
        send_on_commit(SwitchChanged(finished=not switch.is_open), EngineChanged())
    return moved


def complete_switch(switch: ModelSwitch, *, host: str) -> bool:
    """The new runner is proven: make its model active and the switch ready, in one transaction.

    False when the switch is no longer ours. Raises ModelNotPlayable, ModelNotFound.
    """
    with transaction.atomic():
        # First the model: should it have been locked or removed meanwhile, the switch stands where it stood.
        activate_model(switch.model_id)
        is_ours = enter_stage(
            switch, SwitchStage.READY, host=host, message=f"{switch.model.display_name} is ready."
        )
        if not is_ours:
            transaction.set_rollback(True)
    return is_ours


def recover_switches(
    *, is_alive: Callable[[str], bool], lapsed: Callable[[ModelSwitch], bool] = lambda switch: False
) -> int:
    """End switches whose host is gone, or has `lapsed`: the active model never changed. Returns how many."""
    recovered = 0
    for switch in (
        ModelSwitch.objects.filter(open_slot=True).exclude(host="").select_related("model", "previous")
    ):
        # Each is looked at, also those of the dead: a lease lapses by being looked at.
        if not lapsed(switch) and is_alive(switch.host):
            continue
        stays = switch.previous.display_name if switch.previous else "the previous model"
        recovered += enter_stage(
            switch,
            SwitchStage.FAILED,
            host=switch.host,
            error_code="ENGINE_STOPPED",
            message=(
                f"The engine stopped while the switch was {switch.get_stage_display().lower()}. {stays} stays active."
                " Switch again; a download goes on where it stopped."
            ),
        )
    return recovered


def expected_seconds(model: ModelConfig, stage: str) -> float | None:
    """How long a stage took for this model lately, from the machine's own record; None without one."""
    seconds = [
        switch.stage_seconds[stage]
        for switch in ModelSwitch.objects.filter(model=model, stage=SwitchStage.READY).order_by("-id")[
            :RECENT
        ]
        if stage in switch.stage_seconds
    ]
    return sum(seconds) / len(seconds) if seconds else None


def note_measured_memory(model: ModelConfig, device: str, dtype: str, peak_bytes: int) -> None:
    """Remember how much a model really took in a dtype on a device of this machine; the largest counts."""
    name = measured_as(device, dtype)
    with transaction.atomic():
        row = ModelConfig.objects.select_for_update().get(pk=model.pk)
        if peak_bytes > row.measured_bytes.get(name, 0):
            row.measured_bytes = {**row.measured_bytes, name: peak_bytes}
            row.save(update_fields=["measured_bytes"])
