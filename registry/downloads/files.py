"""Which files of a repository are read, and what a folder needs to be a checkpoint.

The rule is that of `generation.engine.hub`; a test holds the two together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

# Everything small at the top of a repository, but for the second copies of weights that official repositories
# hold.
_SMALL_FILES = re.compile(r"[^/]+\.(json|model|txt)")
_SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_BIN = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")

# A name that is one plain file on every system: no folder, no drive, no control character.
_PLAIN_NAME = re.compile(r"[\w.+ @()\[\]-]+")

#: A config or an index is a few kilobytes; more than this is no config.
MAX_JSON_BYTES: Final = 16 * 1024 * 1024


def wanted_files(names: Iterable[str]) -> list[str]:
    """Of all files of a repository those that are read: configs, tokenizer, and one form of weights."""
    names = sorted(name for name in names if _PLAIN_NAME.fullmatch(name))
    weights = [name for name in names if _SAFETENSORS.fullmatch(name)]
    unread_index = "pytorch_model.bin.index.json"
    if not weights:
        weights = [name for name in names if _BIN.fullmatch(name)]
        unread_index = "model.safetensors.index.json"
    small = [name for name in names if _SMALL_FILES.fullmatch(name) and name != unread_index]
    return small + weights


def has_weights(names: Iterable[str]) -> bool:
    """Whether any of these files holds weights that are read."""
    return any(_SAFETENSORS.fullmatch(name) or _BIN.fullmatch(name) for name in names)


def weight_files(folder: Path) -> list[Path]:
    """The weight files a folder is loaded from, safetensors before .bin; empty where one is missing."""
    for whole, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (folder / whole).is_file():
            return [folder / whole]
        if (folder / index).is_file():
            try:
                shards = {str(shard) for shard in read_json(folder / index)["weight_map"].values()}
            except (ValueError, KeyError, AttributeError, TypeError):
                return []
            files = [folder / shard for shard in sorted(shards)]
            plain = all(_PLAIN_NAME.fullmatch(shard) for shard in shards)
            return files if plain and all(file.is_file() for file in files) else []
    return []


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer in one of the two forms that are read."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "spiece.model"))


def read_json(path: Path) -> Any:
    """What a small JSON file holds. Raises ValueError for one that is not JSON or too large to be a config."""
    with path.open("rb") as file:
        content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise ValueError(f"{path.name} is larger than {MAX_JSON_BYTES} bytes")
    try:
        return json.loads(content)
    except RecursionError as error:  # nested a thousand levels deep
        raise ValueError(f"{path.name} is nested too deeply") from error
