"""The adapters that ship with the studio: each comes into a studio once, so that adapters can be tried at once."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Final

from django.conf import settings

from adapters.format.errors import AdapterRefused
from adapters.models import ShippedImport
from adapters.services.importing import ShippedSource, import_adapter

FOLDER: Final = Path(__file__).resolve().parent.parent / "shipped"

log = logging.getLogger(__name__)


def import_shipped(folder: Path = FOLDER) -> list[str]:
    """Bring in the shipped adapters that this studio was never given, and answer their names.

    One that cannot come in, for want of disk space say, is told in the log and tried again at the next start: it is no
    reason not to serve.
    """
    if not settings.STUDIO.shipped_adapters:
        return []
    given = set(ShippedImport.objects.values_list("sha256", flat=True))
    brought = []
    for source, name in _sources(folder):
        if name in given:
            continue
        try:
            result = import_adapter(source=ShippedSource(source))
        except (AdapterRefused, OSError) as problem:
            log.warning(
                "The adapter %s that ships with the studio was not brought in: %s", source.name, problem
            )
            continue
        ShippedImport.objects.get_or_create(sha256=name)
        brought.append(result.adapter.name)
    return brought


def _sources(folder: Path) -> Iterable[tuple[Path, str]]:
    """Folders with an adapter, each with the hash of its weights: a better one in a later release comes in anew."""
    for source in sorted(folder.glob("*/adapter_model.safetensors")):
        yield source.parent, sha256(source.read_bytes()).hexdigest()
