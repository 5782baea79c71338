"""An uploaded zip as a file with a path, which is what is unpacked.

Django keeps a large upload in a file already and a small one in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files.uploadedfile import TemporaryUploadedFile, UploadedFile

from adapters.importing.store import arriving


@contextmanager
def zip_of(file: UploadedFile[Any]) -> Iterator[Path]:
    """The path of an upload, for as long as it is needed. Raises AdapterRefused where it cannot be kept."""
    if isinstance(file, TemporaryUploadedFile):
        yield Path(file.temporary_file_path())
        return
    with arriving(settings.STUDIO.incoming_folder) as folder:
        path = folder / "upload.zip"
        with path.open("xb") as output:
            for chunk in file.chunks():
                output.write(chunk)
        yield path
