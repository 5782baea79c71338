"""A job that goes on from a take: which take, from where, and its file when the engine begins.

The take's file is known by its content: a job and a recipe name its hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gated_configs.wording import channel_word, plain_number
from generation.models import Job, Take
from generation.services.parameters import is_finite
from generation.services.refusals import Refusal
from registry.media import takes_media
from registry.models import ModelConfig

#: So much must be there to go on from: with less the model hears nothing to go on with.
SHORTEST_SECONDS: Final = 1.0


class SourceGone(RuntimeError):
    """What a job goes on from is no longer there. `str()` is the sentence for people."""

    error_code = "TAKE_GONE"
    detail = ""

    def __init__(self) -> None:
        super().__init__("The take that this job goes on from was removed. Choose another one.")


@dataclass(frozen=True)
class Source:
    """A take up to a moment."""

    take: Take
    seconds: float

    @property
    def fields(self) -> dict[str, Any]:
        """What a job keeps of it."""
        return {
            "continued_take": self.take.pk,
            "continued_sha256": self.take.sha256,
            "continued_from_seconds": self.seconds,
        }


def check_source(
    owner: Any, take_id: Any, seconds: Any, model: ModelConfig | None
) -> Source | Refusal | None:
    """The take to go on from, which must be the person's own and kept, or why it cannot be; None for none."""
    if take_id is None:
        if seconds is None:
            return None
        return Refusal("The take to go on from is missing. Choose one of the library.", "TAKE_NOT_FOUND")
    is_number = isinstance(take_id, int) and not isinstance(take_id, bool) and 0 < take_id < 2**63
    take = Take.objects.for_user(owner).kept().filter(pk=take_id).first() if is_number and owner else None
    if take is None:
        return Refusal(
            "There is no such take to go on from. Choose one of the library.",
            "TAKE_NOT_FOUND",
            {"continue_take": take_id},
        )
    if model is not None and take.channels != model.channels:
        return Refusal(
            f"Take {take.pk} is {channel_word(take.channels)} and {model.display_name} plays"
            f" {channel_word(model.channels)}. Choose a {channel_word(take.channels)} model.",
            "CHANNELS_DIFFER",
            {"continue_take": take.pk, "channels": take.channels, "model_id": model.pk},
        )
    return Source(take, take.duration_seconds if seconds is None else seconds)


def check_moment(source: Source | Refusal | None) -> Refusal | None:
    """Why a take cannot go on from that moment; None where it can."""
    if not isinstance(source, Source):
        return None
    seconds: Any = source.seconds
    end = source.take.duration_seconds
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool) and is_finite(seconds)
    if is_number and SHORTEST_SECONDS <= seconds <= end:
        return None
    if end < SHORTEST_SECONDS:
        sentence = f"Take {source.take.pk} is too short to go on from. Choose one of at least 1 s."
    else:
        sentence = f"Go on from a moment between 1 and {plain_number(round(end, 3))} s of the take."
    return Refusal(
        sentence,
        "PARAMETER_OUT_OF_RANGE",
        {"minimum": SHORTEST_SECONDS, "maximum": end, "field": "continue_from_seconds"},
    )


@contextmanager
def source_file(job: Job) -> Iterator[Path | None]:
    """A file on this machine with what a job goes on from; None for a job of its own. Raises SourceGone, MediaAway."""
    if not job.continued_sha256:
        yield None
        return
    take = Take.objects.filter(pk=job.continued_take or 0, sha256=job.continued_sha256).first()
    if take is None:
        raise SourceGone
    with ExitStack() as stack:
        try:
            path = stack.enter_context(takes_media().local(take.file_name))
        except FileNotFoundError as gone:
            raise SourceGone from gone
        yield path
