"""Checks that a folder holds a MusicGen checkpoint that is whole, from configs and headers and, with a plan, hashes.

Never runs or unpickles anything it finds.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

from gated_configs.hub.errors import (
    FILE_CORRUPT,
    INCOMPLETE,
    WRONG_ARCHITECTURE,
    DownloadCancelled,
    DownloadFailed,
)
from registry.downloads.cache import discard, size_of
from registry.downloads.files import has_tokenizer, read_json, weight_files
from registry.downloads.hashes import hash_file, is_proved, new_hasher, remember_proof
from registry.downloads.plan import DownloadPlan, FilePlan

#: The bound that the library sets, too.
MAX_HEADER_BYTES: Final = 25_000_000

# Bits of an element by the name of its type; a type that is not here is not checked against its shape.
_BITS: Final = {
    **dict.fromkeys(("F64", "I64", "U64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 8),
}


def verify_checkpoint(
    folder: Path,
    plan: DownloadPlan | None = None,
    *,
    on_fraction: Callable[[float], None],
    should_stop: Callable[[], bool],
) -> None:
    """Raise DownloadFailed WRONG_ARCHITECTURE, INCOMPLETE or FILE_CORRUPT unless the folder can be loaded.

    With its plan, files that this process has not hashed yet are hashed; `on_fraction` hears how far that is. A
    damaged file of the hub's cache is taken out of it, so that the next download fetches it anew; a folder of the
    user's own is left as it is. Raises DownloadCancelled when `should_stop` says so.
    """
    name = plan.repo_id if plan else _name_of(folder)
    on_fraction(0.0)
    _check_config(folder, name)
    if not has_tokenizer(folder):
        raise _incomplete(name, "its tokenizer (tokenizer.json or spiece.model)")
    weights = weight_files(folder)
    if not weights:
        raise _incomplete(name, "its weights, or a part of them")
    for file in weights:
        if should_stop():
            raise DownloadCancelled
        try:
            _check_weights(file)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _damaged(file, name, f"{type(error).__name__}: {error}") from error
    if plan is not None:
        _check_hashes(folder, plan, name, on_fraction, should_stop)
    on_fraction(1.0)


def _check_config(folder: Path, name: str) -> None:
    path = folder / "config.json"
    if not path.is_file():
        raise _incomplete(name, "config.json")
    try:
        model_type = read_json(path)["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, name, f"{type(error).__name__}: {error}") from error
    if model_type not in ("musicgen", "musicgen_melody"):
        message = (
            f"{name} is not a MusicGen model but of type {str(model_type)[:60]!r}. Choose a MusicGen model."
        )
        raise DownloadFailed(WRONG_ARCHITECTURE, message, f"model_type is {str(model_type)[:200]!r}")


# --- weights ---


def _check_weights(path: Path) -> None:
    """Raise ValueError, KeyError or TypeError for a weight file that is damaged or cut off."""
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            end = check_safetensors_header(file)
        if end != path.stat().st_size:
            raise ValueError(f"{path.stat().st_size} bytes long, and its header speaks of {end}")
    elif not _is_old_pickle(path):
        # A .bin is a zip file whose table of contents comes last: one that was cut off has none.
        try:
            with zipfile.ZipFile(path) as archive:
                archive.infolist()
        except (zipfile.BadZipFile, OSError) as error:
            raise ValueError(str(error)) from error


def check_safetensors_header(file: BinaryIO) -> int:
    """Read a safetensors header and answer how long the file must be. Raises ValueError, KeyError, TypeError."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes")
    content = file.read(length)
    if len(content) < length:
        raise ValueError("cut off within its header")
    header = json.loads(content)
    if not isinstance(header, dict):
        raise TypeError("its header is not an object")
    spans = sorted(_span_of(tensor) for name, tensor in header.items() if name != "__metadata__")
    end = 0
    for first, last in spans:
        if first != end:
            raise ValueError(f"its tensors leave a gap or overlap at byte {end}")
        end = last
    if not spans:
        raise ValueError("it holds no tensor")
    return 8 + length + end


def _span_of(tensor: dict[str, Any]) -> tuple[int, int]:
    first, last = tensor["data_offsets"]
    numbers = [first, last, *tensor["shape"]]
    if any(type(number) is not int or number < 0 for number in numbers) or last < first:
        raise ValueError("a tensor with an impossible shape or place")
    bits = _BITS.get(tensor["dtype"])
    if bits is not None and math.prod(tensor["shape"]) * bits != (last - first) * 8:
        raise ValueError("a tensor whose shape does not fit its bytes")
    return first, last


def _is_old_pickle(path: Path) -> bool:
    """Whether a .bin is of the form before zip files, of which nothing can be told without unpickling."""
    with path.open("rb") as file:
        return file.read(1) == b"\x80"


# --- hashes ---


def _check_hashes(
    folder: Path,
    plan: DownloadPlan,
    name: str,
    on_fraction: Callable[[float], None],
    should_stop: Callable[[], bool],
) -> None:
    done = 0
    total = max(1, plan.total_bytes)

    def on_block(count: int) -> None:
        nonlocal done
        if should_stop():
            raise DownloadCancelled
        done += count
        on_fraction(min(1.0, done / total))

    for file in plan.files:
        path = folder / file.name
        if size_of(path) != file.size_bytes:
            if size_of(path) is None:
                raise _incomplete(name, file.name)
            raise _damaged(path, name, f"{size_of(path)} bytes instead of {file.size_bytes}")
        if is_proved(path):
            on_block(file.size_bytes)
        else:
            _check_hash(path, file, name, on_block)


def _check_hash(path: Path, file: FilePlan, name: str, on_block: Callable[[int], None]) -> None:
    hasher = new_hasher(sha256=file.sha256, size_bytes=file.size_bytes)
    hash_file(path, hasher, on_block)
    if hasher.hexdigest() != file.etag:
        raise _damaged(path, name, "its hash is not the one that the hub lists")
    remember_proof(path)


# --- failures ---


def _name_of(folder: Path) -> str:
    """What people call a checkpoint: its hub id where the folder is one of the hub's cache."""
    storage = folder.parent.parent.name
    if folder.parent.name == "snapshots" and storage.startswith("models--"):
        return storage.removeprefix("models--").replace("--", "/")
    return folder.name


def _incomplete(name: str, what: str) -> DownloadFailed:
    return DownloadFailed(INCOMPLETE, f"{name} lacks {what}. Fetch the model again.")


def _damaged(path: Path, name: str, reason: str) -> DownloadFailed:
    if discard(path):
        message = f"{path.name} of {name} is damaged and was removed. Try again: it is fetched anew."
    else:
        message = f"{path.name} of {name} is damaged. Put a sound copy of the model in its place."
    return DownloadFailed(FILE_CORRUPT, message, f"{path.name}: {reason}")
