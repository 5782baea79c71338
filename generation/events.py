"""Hints that speak of jobs and takes, to the engine and to their owner's pages. How hints travel: registry.events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from registry.events import HOSTS_GROUP, Hint


def owner_group(owner_id: int) -> str:
    """Group of the pages that this person has open."""
    return f"studio.owner.{owner_id}"


@dataclass(frozen=True)
class OwnerHint(Hint):
    """A hint to the pages of one person."""

    owner_id: int

    @property
    def group(self) -> str:
        """That person's pages."""
        return owner_group(self.owner_id)


@dataclass(frozen=True)
class BoardChanged(OwnerHint):
    """Cards came, went or changed status; `announcement` is for people who listen to the page."""

    type: ClassVar[str] = "board.changed"
    announcement: str = ""


@dataclass(frozen=True)
class JobProgressed(OwnerHint):
    """One running job is further on."""

    type: ClassVar[str] = "job.progressed"
    job_id: int


@dataclass(frozen=True)
class TakesChanged(OwnerHint):
    """A take was saved, renamed, marked, deleted or brought back."""

    type: ClassVar[str] = "takes.changed"


@dataclass(frozen=True)
class AccessChanged(OwnerHint):
    """A login of this person ended, or they may do more or less than before."""

    type: ClassVar[str] = "access.changed"


@dataclass(frozen=True)
class JobSubmitted(Hint):
    """To the engines: there is work in the queue."""

    type: ClassVar[str] = "job.submitted"

    @property
    def group(self) -> str:
        """The engine hosts: whoever is free takes it."""
        return HOSTS_GROUP


@dataclass(frozen=True)
class JobCancelRequested(Hint):
    """To the engines: somebody wants this job to end."""

    type: ClassVar[str] = "job.cancel_requested"
    job_id: int

    @property
    def group(self) -> str:
        """The engine hosts: one of them has it in hand."""
        return HOSTS_GROUP
