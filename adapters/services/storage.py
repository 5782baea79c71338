"""Files of weights and the rows that need them: no row without its file, no file without a row."""

from __future__ import annotations

from django.conf import settings

from adapters.importing.store import weights_lock
from adapters.models import Adapter
from adapters.models.adapter import weights_path


def remove_unused_weights(weights_sha256: str) -> int:
    """Remove the file of that hash if no adapter needs it any more, and answer the bytes that this freed.

    Call it after the rows are gone. An import of the same weights at the same moment waits, or is waited for.
    Raises OSError where the file cannot be removed.
    """
    with weights_lock(settings.STUDIO.adapters_folder):
        if Adapter.objects.filter(weights_sha256=weights_sha256).exists():
            return 0
        path = weights_path(weights_sha256)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return size
