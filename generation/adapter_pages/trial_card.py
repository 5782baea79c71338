"""A comparison by ear as its page shows it: three lanes, from the first moment to the last. Reads rows, writes none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gated_configs.wording import THIN_SPACE, plain_number, spoken_seconds
from generation import cards
from generation.models import AdapterTrial, JobStatus, Take
from generation.services.trials import TrialPart, parts_of


@dataclass(frozen=True)
class TrialLane:
    """One of the three. `state` is waiting, running, failed, cancelled, gone or finished; only the last has a take."""

    label: str
    state: str
    status_line: str
    percent: float | None = None
    take: Take | None = None
    gain_db: float = 0.0
    player_line: str = ""

    @property
    def level_line(self) -> str:
        """How much quieter it is played than it was made."""
        if self.gain_db > -0.05:
            return "as made"
        return f"\u2212{plain_number(round(-self.gain_db, 1))}{THIN_SPACE}dB"

    @property
    def level_title(self) -> str:
        """The same in a sentence."""
        if self.gain_db > -0.05:
            return "The quietest of the three: played as it was made."
        return (
            f"Played {plain_number(round(-self.gain_db, 1))} dB quieter, so that all three are equally loud."
        )


@dataclass(frozen=True)
class TrialCard:
    """The comparison. `state` is busy, finished, failed or cancelled; failed means that at least one lane is."""

    pk: int
    state: str
    prompt: str
    facts: str
    announcement: str
    can_cancel: bool
    lanes: list[TrialLane]

    @property
    def can_compare(self) -> bool:
        """Whether there is more than one sound to compare."""
        return sum(lane.take is not None for lane in self.lanes) > 1


def trial_card(trial: AdapterTrial) -> TrialCard:
    """Put a comparison into words."""
    lanes = [_lane(part, str(trial.adapter)) for part in parts_of(trial)]
    state = _state(lanes)
    done = sum(lane.state == "finished" for lane in lanes)
    facts = [
        spoken_seconds(trial.duration_seconds),
        f"seed {trial.seed}",
        trial.model.display_name,
    ]
    return TrialCard(
        pk=trial.pk,
        state=state,
        prompt=trial.prompt,
        facts=" · ".join(facts),
        announcement={
            "busy": f"Comparison: {done} of {len(lanes)} takes made.",
            "finished": "The comparison is ready.",
            "failed": "A take of the comparison could not be made.",
            "cancelled": "The comparison was stopped.",
        }[state],
        can_cancel=any(lane.state in {"waiting", "running"} for lane in lanes),
        lanes=lanes,
    )


def _state(lanes: Iterable[TrialLane]) -> str:
    states = {lane.state for lane in lanes}
    if states & {"waiting", "running"}:
        return "busy"
    if "failed" in states:
        return "failed"
    return "cancelled" if states & {"cancelled", "gone"} or not states else "finished"


def _lane(part: TrialPart, adapter: str) -> TrialLane:
    job, take = part.job, part.take
    label = f"Strength {part.strength:.1f}" if part.strength else "Base"
    match job.status:
        case JobStatus.FINISHED if take is not None:
            line = f"{adapter} · {job.model.display_name} · seed {job.seed}"
            return TrialLane(label, "finished", "", take=take, gain_db=part.gain_db, player_line=line)
        case JobStatus.FINISHED:
            return TrialLane(label, "gone", "This take was deleted.")
        case JobStatus.FAILED:
            return TrialLane(label, "failed", job.error_message or "This take could not be made.")
        case JobStatus.CANCELLED:
            return TrialLane(label, "cancelled", job.error_message or "Stopped")
    card = cards.card_of(job)
    state = "waiting" if card.state == "queued" else "running"
    return TrialLane(label, state, card.status_line, percent=card.percent)
