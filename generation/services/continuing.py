"""The take or clip that a job goes on from, the clip whose melody it follows, and their files when the engine begins.

The file is known by its content: a job and a recipe name its hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gated_configs.wording import channel_word, plain_number
from generation.models import Clip, Job, Take
from generation.services.parameters import is_finite
from generation.services.refusals import Refusal
from registry.media import Media, clips_media, takes_media
from registry.models import ModelConfig

#: So much must be there to go on from: with less the model hears nothing to go on with.
SHORTEST_SECONDS: Final = 1.0


class SourceGone(RuntimeError):
    """What a job goes on from or follows is no longer there. `str()` is the sentence for people."""

    detail = ""

    def __init__(self, sentence: str, error_code: str) -> None:
        self.error_code = error_code
        super().__init__(sentence)


@dataclass(frozen=True)
class Source:
    """A take or a clip up to a moment."""

    audio: Take | Clip
    seconds: float

    @property
    def noun(self) -> str:
        """What it is."""
        return "clip" if isinstance(self.audio, Clip) else "take"

    @property
    def fields(self) -> dict[str, Any]:
        """What a job keeps of it."""
        return {
            f"continued_{self.noun}": self.audio.pk,
            "continued_sha256": self.audio.sha256,
            "continued_from_seconds": self.seconds,
        }


def check_source(
    owner: Any, take_id: Any, clip_id: Any, seconds: Any, model: ModelConfig | None
) -> Source | Refusal | None:
    """What to go on from, which must be the person's own and kept, or why it cannot be; None for nothing.

    A clip may have other channels than the model: the engine mixes it.
    """
    if clip_id is not None:
        if take_id is not None:
            return Refusal("Go on from a take or from a clip, not from both.", "SOURCE_TWICE")
        clip = _own_clip(owner, clip_id)
        if clip is None:
            sentence = "There is no such clip to go on from. Bring it in again."
            return Refusal(sentence, "CLIP_NOT_FOUND", {"continue_clip": clip_id})
        return Source(clip, clip.duration_seconds if seconds is None else seconds)
    if take_id is None:
        if seconds is None:
            return None
        return Refusal("The take to go on from is missing. Choose one of the library.", "TAKE_NOT_FOUND")
    mine = Take.objects.for_user(owner).kept()
    take = mine.filter(pk=take_id).first() if _is_id(take_id) and owner else None
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


def check_melody(owner: Any, clip_id: Any, model: ModelConfig | None) -> Clip | Refusal | None:
    """The person's own clip whose melody a take follows, or why it cannot; None for no clip."""
    if clip_id is None:
        return None
    clip = _own_clip(owner, clip_id)
    if clip is None:
        sentence = "There is no such clip to follow. Bring it in again."
        return Refusal(sentence, "CLIP_NOT_FOUND", {"melody_clip": clip_id})
    # Of a checkpoint that was never read nobody knows: its engine says.
    if model is not None and model.family is not None and not model.follows_melody:
        return Refusal(
            f"{model.display_name} cannot follow a clip. Choose a melody model, or leave the clip out.",
            "MELODY_NOT_SUPPORTED",
            {"melody_clip": clip_id, "model_id": model.pk},
        )
    return clip


def _own_clip(owner: Any, clip_id: Any) -> Clip | None:
    return Clip.objects.for_user(owner).filter(pk=clip_id).first() if _is_id(clip_id) and owner else None


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63


def check_moment(source: Source | Refusal | None) -> Refusal | None:
    """Why a job cannot go on from that moment; None where it can."""
    if not isinstance(source, Source):
        return None
    seconds: Any = source.seconds
    end = source.audio.duration_seconds
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool) and is_finite(seconds)
    if is_number and SHORTEST_SECONDS <= seconds <= end:
        return None
    if end < SHORTEST_SECONDS:
        sentence = f"{source.noun.capitalize()} {source.audio.pk} is too short to go on from. Choose one of at least 1 s."
    else:
        sentence = f"Go on from a moment between 1 and {plain_number(round(end, 3))} s of the {source.noun}."
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
    elif job.continued_clip is not None:
        with _clip_file(job, job.continued_sha256, "goes on from") as path:
            yield path
    else:
        take = Take.objects.filter(pk=job.continued_take or 0, sha256=job.continued_sha256).first()
        sentence = "The take that this job goes on from was removed. Choose another one."
        with _local(takes_media(), take, SourceGone(sentence, "TAKE_GONE")) as path:
            yield path


@contextmanager
def melody_file(job: Job) -> Iterator[Path | None]:
    """The same of the clip whose melody a job follows."""
    if not job.melody_sha256:
        yield None
    else:
        with _clip_file(job, job.melody_sha256, "follows") as path:
            yield path


def _clip_file(job: Job, content: str, what_it_does: str) -> AbstractContextManager[Path]:
    # By content: the same clip may have been brought in again.
    clip = Clip.objects.for_user(job.owner_id).filter(sha256=content).first()
    sentence = f"The clip that this job {what_it_does} was removed. Bring it in again."
    return _local(clips_media(), clip, SourceGone(sentence, "CLIP_GONE"))


@contextmanager
def _local(media: Media, found: Take | Clip | None, gone: SourceGone) -> Iterator[Path]:
    if found is None:
        raise gone
    with ExitStack() as stack:
        try:
            path = stack.enter_context(media.local(found.file_name))
        except FileNotFoundError as problem:
            raise gone from problem
        yield path
