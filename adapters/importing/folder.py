"""Takes an adapter's files from a folder of this machine. They are copied first and judged then.

What is judged can so no longer change, and the user's own files stay as they are.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from adapters.format.errors import AdapterRefused
from adapters.importing.contents import (
    CONFIG_NAME,
    MAX_CONFIG_BYTES,
    README_HEAD_BYTES,
    README_NAME,
    WEIGHTS_NAME,
    Arrived,
    choose_files,
)
from adapters.importing.store import check_room, copy_bounded
from adapters.importing.zip_directory import too_large

FOLDER_NOT_FOUND: Final = "FOLDER_NOT_FOUND"
NOT_A_FILE: Final = "NOT_A_FILE"

#: Names that are looked at, two folders deep: enough to say where in a tree the adapter is.
_MOST_NAMES: Final = 5000


def copy_folder(source: Path, folder: Path, *, max_bytes: int) -> Arrived:
    """Copy the adapter's config, weights and the head of its README from `source` into `folder`, which exists.

    `source` may also be the weights file itself. Links are followed: the hub's cache consists of them. Raises
    AdapterRefused with a sentence, and OSError as reading and writing do.
    """
    source = Path(os.path.abspath(source))  # noqa: PTH100 - links stay as they are: they may carry the name
    if source.is_file() and source.suffix == ".safetensors":
        source = source.parent
    if not source.is_dir():
        raise AdapterRefused(
            FOLDER_NOT_FOUND, f"There is no folder {str(source)[:200]!r} that can be read. Check the path."
        )
    names = _names_in(source)
    chosen = choose_files(names, where="folder")
    config = _plain_file(source / chosen.config) if chosen.config else None
    weights = _plain_file(source / chosen.weights) if chosen.weights else None
    readme = source / chosen.readme if chosen.readme else None
    if weights is not None:
        size = weights.stat().st_size
        if size > max_bytes:
            raise too_large(max_bytes, f"{size} bytes")
        check_room(folder, size)
        copy_bounded(weights, folder / WEIGHTS_NAME, max_bytes=max_bytes)
    if config is not None:
        # One byte over the bound arrives, so that who reads it sees that it is too large.
        (folder / CONFIG_NAME).write_bytes(_head(config, MAX_CONFIG_BYTES + 1))
    if readme is not None and readme.is_file():
        (folder / README_NAME).write_bytes(_head(readme, README_HEAD_BYTES))
    return Arrived(
        name=chosen.top or source.name,
        config=folder / CONFIG_NAME if config else None,
        weights=folder / WEIGHTS_NAME if weights else None,
        readme=folder / README_NAME if (folder / README_NAME).exists() else None,
        names=tuple(name.removeprefix(f"{chosen.top}/") for name in names),
        left_out=chosen.left_out,
    )


def _names_in(source: Path) -> list[str]:
    names: list[str] = []
    for parent, folders, files in os.walk(source):
        below = Path(parent).relative_to(source)
        if len(below.parts) >= 2:
            folders.clear()
        names += [(below / name).as_posix() for name in files]
        if len(names) > _MOST_NAMES:
            break
    return names


def _plain_file(path: Path) -> Path:
    """The path, unless it is a pipe or a device, which could be read for ever."""
    if not path.is_file():
        raise AdapterRefused(
            NOT_A_FILE, f"{path.name} is not a file that can be read. Choose the folder that training wrote."
        )
    return path


def _head(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)
