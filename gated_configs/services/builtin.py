"""Configs that ship with the studio: Meta's MusicGen checkpoints, and those that another app registers.

They need neither hub nor token. The files hold what decides about shapes, as the published config.json does.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).resolve().parent.parent / "builtin"
_OWNER: Final = "facebook"

_registered: dict[str, Callable[[], dict[str, Any] | None]] = {}


def register_builtin(model_id: str, reader: Callable[[], dict[str, Any] | None]) -> None:
    """Add a config that an app above this one ships; `reader` answers it, or None while it is not there."""
    _registered[model_id] = reader


def builtin_ids() -> tuple[str, ...]:
    """The ids of all built-in configs."""
    return (*_files(), *_registered)


def canonical_builtin_id(text: str) -> str | None:
    """The built-in id that a full id or a bare name such as "musicgen-small" means, letters of either case."""
    wanted = text.casefold()
    for model_id in builtin_ids():
        if wanted in (model_id.casefold(), model_id.partition("/")[2].casefold()):
            return model_id
    return None


def builtin_config(model_id: str) -> dict[str, Any] | None:
    """The built-in config of that id, or None. The caller may change what it gets."""
    if model_id in _registered:
        return _registered[model_id]()
    path = _files().get(model_id)
    if path is None:
        return None
    config: dict[str, Any] = json.loads(path.read_bytes())
    return config


@functools.cache
def _files() -> dict[str, Path]:
    return {f"{_OWNER}/{path.stem}": path for path in sorted(FOLDER.glob("*.json"))}
