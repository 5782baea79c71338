"""Which files of the home a backup holds: those that rows name, and all others that could not be made again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections

from registry.media import Media, clips_media, takes_media, weights_media

#: Made again, of one process only, or secret. The key signs logins: a new home makes its own.
LEFT_OUT: Final = frozenset({"cache", "scratch", "incoming", "secret_key", "test.sqlite3"})
#: What a restore moved aside.
REPLACED: Final = "replaced-"


@dataclass(frozen=True)
class NamedFile:
    """A file that a row names, as a path below the home."""

    label: str
    pk: Any
    path: str

    @property
    def media(self) -> Media:
        """Where it is kept."""
        return MEDIA[PurePosixPath(self.path).parts[0]]()

    @property
    def name(self) -> str:
        """Its name there."""
        return PurePosixPath(self.path).name


def named_files(apps: Any, alias: str) -> list[NamedFile]:
    """Files of all takes, clips and adapters in that database. The same weights may have several rows."""
    takes = apps.get_model("generation", "Take")._base_manager.using(alias)
    adapters = apps.get_model("adapters", "Adapter")._base_manager.using(alias)
    # A database of an older release has no clips.
    has_clips = "clip" in apps.all_models["generation"]
    clips = apps.get_model("generation", "Clip")._base_manager.using(alias) if has_clips else takes.none()
    return [
        *(
            NamedFile("generation.take", pk, f"takes/{name}")
            for pk, name in takes.order_by("pk").values_list("pk", "file_name")
        ),
        *(
            NamedFile("generation.clip", pk, f"clips/{name}")
            for pk, name in clips.order_by("pk").values_list("pk", "file_name")
        ),
        *(
            NamedFile("adapters.adapter", pk, f"adapters/{sha256}.safetensors")
            for pk, sha256 in adapters.order_by("pk").values_list("pk", "weights_sha256")
        ),
    ]


#: Folders of which only what rows name counts, also where a bucket is in their place; and the models of these rows.
MEDIA: Final[dict[str, Callable[[], Media]]] = {
    "takes": takes_media,
    "clips": clips_media,
    "adapters": weights_media,
}
BY_ROW: Final = frozenset(MEDIA)
LABELS: Final = ("generation.take", "generation.clip", "adapters.adapter")


def kept_entries(home: Path) -> list[Path]:
    """What lies directly in the home and belongs to a backup, takes and adapters included."""
    left_out = {*LEFT_OUT, *_downloads_in(home)}
    database = connections[DEFAULT_DB_ALIAS].settings_dict["NAME"]
    beside = {Path(f"{database}{suffix}") for suffix in ("", "-wal", "-shm", "-journal")}
    if not home.is_dir():
        return []
    return sorted(
        entry
        for entry in home.iterdir()
        if entry.name not in left_out
        and not entry.name.startswith((".", REPLACED, settings.STUDIO.database_path.name))
        and entry not in beside
    )


def _downloads_in(home: Path) -> set[str]:
    """Folders of the home that hold the hub's downloads, if somebody put them there."""
    named = (os.environ.get(name) for name in ("HF_HOME", "HF_HUB_CACHE"))
    places = [Path(place) for place in named if place]
    return {place.relative_to(home).parts[0] for place in places if home in place.parents}


def other_files(home: Path) -> Iterator[Path]:
    """Every whole file of the kept folders that no table of ours names. Links below are not followed."""
    for entry in kept_entries(home):
        if entry.name in BY_ROW:
            continue
        if entry.is_dir():
            for folder, _, names in os.walk(entry):
                paths = [Path(folder) / name for name in sorted(names)]
                yield from (path for path in paths if _is_whole(path))
        elif _is_whole(entry):
            yield entry


def _is_whole(path: Path) -> bool:
    return (
        not path.name.startswith(".") and path.suffix != ".part" and path.is_file() and not path.is_symlink()
    )
