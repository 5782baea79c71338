"""How much of the disk each part of the home takes. Looks at files: rows know nothing of caches and leftovers.

What lies in a bucket is told from rows: to look there would be a request for each thousand files.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from django.conf import settings

from adapters.models import Adapter
from generation.services.storage import total_storage
from registry.media import takes_media
from registry.media.files import bytes_below

#: Looking takes a moment on a full studio, so what was seen holds for this long, in seconds.
KEEP_SECONDS: Final = 60.0
#: What is in none of the folders: database, key, locks.
REST: Final = "database and the rest"


@dataclass(frozen=True)
class DiskUse:
    """Bytes by folder of the home, largest first, and the disk that they lie on; and bytes in a bucket by kind."""

    parts: dict[str, int]
    total_bytes: int
    free_bytes: int
    in_bucket: dict[str, int] = field(default_factory=dict)

    @property
    def used_bytes(self) -> int:
        """All that the studio takes."""
        return sum(self.parts.values())


_lock = threading.Lock()
_seen: dict[Path, tuple[float, DiskUse]] = {}


def disk_use() -> DiskUse:
    """What the home takes, at most a minute old. Raises OSError where the disk does not answer."""
    home = Path(settings.STUDIO.home)
    with _lock:  # several that ask at once wait for one look
        kept = _seen.get(home)
        if kept is None or time.monotonic() - kept[0] > KEEP_SECONDS:
            kept = (time.monotonic(), _look(home))
            _seen.clear()
            _seen[home] = kept
        return kept[1]


def _look(home: Path) -> DiskUse:
    parts: dict[str, int] = {}
    there = home if home.is_dir() else home.parent
    if home.is_dir():
        with os.scandir(home) as entries:
            for entry in entries:
                name, size = (
                    (entry.name, bytes_below(Path(entry.path))) if entry.is_dir() else (REST, _size_of(entry))
                )
                parts[name] = parts.get(name, 0) + size
    disk = shutil.disk_usage(there)
    ordered = dict(sorted(parts.items(), key=lambda part: -part[1]))
    return DiskUse(ordered, disk.total, disk.free, _in_bucket())


def _in_bucket() -> dict[str, int]:
    if not takes_media().is_remote:
        return {}
    weights = dict(Adapter.objects.values_list("weights_sha256", "file_bytes"))  # several may share a file
    use = total_storage()
    return {
        "takes": use.kept_bytes + use.deleted_bytes,
        "clips": use.clip_bytes,
        "adapters": sum(weights.values()),
    }


def _size_of(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0
