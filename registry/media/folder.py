"""Files in a folder of the home. The rules about names and renames are those of `files`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from django.conf import settings
from django.core.files.storage import FileSystemStorage

from registry.media import files
from registry.media.files import ASIDE, Found


class OpenedFile:
    """An open file of the disk: it is read to its end also where its name was removed meanwhile."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size_bytes = os.fstat(file.fileno()).st_size

    def stream(self, start: int = 0, length: int | None = None) -> BinaryIO:
        """The file itself, at `start`; who asks for a part reads no further."""
        self._file.seek(start)
        return self._file

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class FolderMedia(FileSystemStorage):
    """`settings.STORAGES` names the folder; it lies in the home."""

    is_remote = False

    def __init__(self, *, folder: str) -> None:
        self._folder_name = folder
        super().__init__()

    @property
    def _folder(self) -> Path:
        # Asked each time: the home of a test is its own.
        return Path(settings.STUDIO.home) / self._folder_name

    @property
    def base_location(self) -> str:
        """The folder, for Django's own methods."""
        return str(self._folder)

    @property
    def location(self) -> str:
        """The folder, for Django's own methods."""
        return str(self._folder)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """The final path itself: who writes there does so aside and renames."""
        yield self._folder / name

    def opened(self, name: str) -> OpenedFile:
        """Open the file. Raises FileNotFoundError."""
        return OpenedFile(Path(self.path(name)).open("rb"))

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """Where it lies. Raises FileNotFoundError."""
        path = Path(self.path(name))
        if not path.is_file():
            raise FileNotFoundError(name)
        yield path

    def entries(self, prefixes: Sequence[str] = ("",), *, aside: bool = False) -> list[Found]:
        """Everything: looking costs the same. A link in the place of the folder for what is aside is not followed."""
        folder = self._folder / ASIDE if aside else self._folder
        return [] if aside and folder.is_symlink() else files.files_in(folder)

    def remove(self, name: str, *, aside: bool = False) -> int:
        """Remove it and answer the bytes it had."""
        return files.remove_file(self._folder / ASIDE if aside else self._folder, name)

    def set_aside(self, name: str) -> int:
        """A rename within the folder."""
        return files.set_aside(self._folder, name)

    def probe(self) -> None:
        """Nothing: a disk says it when it is written to."""

    def ping(self) -> None:
        """Nothing."""
