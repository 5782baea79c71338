"""Where takes, clips and weights of adapters are kept for good: folders of the home, or a bucket that several machines share.

Knows no rows. `settings.STORAGES` says which; everything else here is the same for both.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, cast

from registry.media.files import ASIDE, Found, NotOurs

__all__ = [
    "ASIDE",
    "AWAY_OPENING",
    "MEDIA_AWAY",
    "MISSING_EXTRA",
    "Found",
    "Media",
    "MediaAway",
    "NotOurs",
    "OpenedMedia",
    "clips_media",
    "live_media",
    "probe",
    "says_away",
    "takes_media",
    "weights_media",
]

MEDIA_AWAY: Final = "MEDIA_AWAY"
#: How the sentence of a MediaAway begins.
AWAY_OPENING: Final = "The storage of takes and adapters"


class MediaAway(OSError):
    """The storage did not answer, or refused. `str()` is the sentence for people, `detail` is for the log."""

    def __init__(self, sentence: str, detail: str = "") -> None:
        super().__init__(sentence)
        self.detail = detail
        self.errno = errno.EIO

    @property
    def in_full(self) -> str:
        """Sentence and detail, for who runs the studio."""
        return f"{self} ({self.detail})"


class OpenedMedia(Protocol):
    """One stored file, found. Close it."""

    size_bytes: int

    def stream(self, start: int = 0, length: int | None = None) -> BinaryIO:
        """The bytes from `start`, to be read once. Its `read` raises MediaAway. Close it, too."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Media(Protocol):
    """Files of one kind by plain name. A name is given once and its content never changes.

    A method raises FileNotFoundError where it needs a file that is not there, MediaAway, NotOurs for a name that leads
    elsewhere, and OSError of the disk.
    """

    #: Whether the files lie beyond this machine's disk, where each look costs a request.
    is_remote: bool

    def writing(self, name: str) -> AbstractContextManager[Path]:
        """A path at which the block puts one whole file; it has its name once the block has ended well."""
        ...

    def opened(self, name: str) -> OpenedMedia:
        """The file, to be read in parts. Raises FileNotFoundError."""
        ...

    def local(self, name: str) -> AbstractContextManager[Path]:
        """A path at which the file can be read while the block lasts. Raises FileNotFoundError."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        ...

    def entries(self, prefixes: Sequence[str] = ("",), *, aside: bool = False) -> list[Found]:
        """Every plain file, or those set aside. With `prefixes` maybe only what begins with one of them."""
        ...

    def remove(self, name: str, *, aside: bool = False) -> int:
        """Remove it and answer the bytes it had; 0 where there is none."""
        ...

    def set_aside(self, name: str) -> int:
        """Move it among those set aside, where its age begins anew. Answers its bytes, 0 where it is gone."""
        ...

    def path(self, name: str) -> str:
        """Where it lies on this machine's disk. Raises NotImplementedError where it does not."""
        ...

    def probe(self) -> None:
        """Raise MediaAway where nothing can be written. Costs nothing for a folder."""
        ...

    def ping(self) -> None:
        """Raise MediaAway where nothing answers. Writes nothing."""
        ...


def takes_media() -> Media:
    """Where takes are kept."""
    return _media("takes")


def clips_media() -> Media:
    """Where clips that people brought in are kept."""
    return _media("clips")


def live_media() -> Media:
    """Where parts of takes lie that are heard while they are made; nothing stays there."""
    return _media("live")


def weights_media() -> Media:
    """Where weights of adapters are kept, each file named by its hash."""
    return _media("adapters")


def probe() -> None:
    """Raise MediaAway, with a sentence for who starts the studio, where takes cannot be kept."""
    takes_media().probe()


def says_away(sentence: str) -> bool:
    """Whether a sentence that was kept, such as an engine's in its row, is that of a MediaAway."""
    return sentence.startswith((AWAY_OPENING, MISSING_EXTRA))


def _media(alias: str) -> Media:
    # Here alone: what only names MediaAway knows nothing of Django.
    from django.core.files.storage import InvalidStorageError, storages

    try:
        # Django types this as the storage it is made of; ours say more.
        return cast(Media, cast(Any, storages)[alias])
    except (ImportError, InvalidStorageError) as problem:
        raise MediaAway(MISSING_EXTRA, str(problem)) from problem


MISSING_EXTRA: Final = (
    "MUSICGEN_MEDIA_URL names a bucket, and the packages for it are not installed:"
    " `pip install -c requirements-dev.lock '.[s3]'` in the studio's folder."
)
