"""Files of weights and the rows that need them: no row without its file, no file without a row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from django.conf import settings
from django.db import connection, transaction

from adapters.importing.store import folder_lock, move_weights
from adapters.models import Adapter
from adapters.models.adapter import weights_name
from registry.media import weights_media

#: What PostgreSQL knows our lock by.
_LOCK_NUMBER: Final = 0x6D75_7367_656E


@contextmanager
def weights_lock() -> Iterator[None]:
    """Hold this while a file of weights gets its row, or loses its last one: the other then waits.

    Processes that share a folder share the lock in it. Machines that share a bucket have one in their database.
    """
    with folder_lock(settings.STUDIO.adapters_folder):
        if not (weights_media().is_remote and connection.vendor == "postgresql"):
            yield
            return
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK_NUMBER])
            yield


def has_weights(weights_sha256: str) -> bool:
    """Whether the file of that hash is there. Raises MediaAway."""
    return weights_media().exists(weights_name(weights_sha256))


def keep_weights(arrived: Path, weights_sha256: str) -> None:
    """Give weights their final name, which is their hash. The same weights again replace themselves.

    Call it under `weights_lock`. Raises OSError; the final name then is as it was.
    """
    with weights_media().writing(weights_name(weights_sha256)) as target:
        move_weights(arrived, target)


def remove_weights(weights_sha256: str) -> int:
    """Remove the file of that hash whoever needs it, and answer the bytes that this freed. Raises OSError."""
    return weights_media().remove(weights_name(weights_sha256))


def remove_unused_weights(weights_sha256: str) -> int:
    """Remove the file of that hash if no adapter needs it any more, and answer the bytes that this freed.

    Call it after the rows are gone. An import of the same weights at the same moment waits, or is waited for.
    Raises OSError where the file cannot be removed.
    """
    with weights_lock():
        if Adapter.objects.filter(weights_sha256=weights_sha256).exists():
            return 0
        return remove_weights(weights_sha256)
