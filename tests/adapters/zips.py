"""Adapters as people zip them, and zips as people who mean harm make them."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model.model.decoder"


def safetensors(tensors: Mapping[str, tuple[list[int], list[float]]], metadata: Any = None) -> bytes:
    """A weights file of float32 tensors: shape and values by name."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    body = b""
    for name, (shape, values) in tensors.items():
        content = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), len(body) + len(content)]}
        body += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def lora_tensors(
    *, hidden: int = 16, layers: int = 2, rank: int = 4, seed: int = 1, prefix: str = PREFIX
) -> dict[str, tuple[list[int], list[float]]]:
    """Pairs for all `q_proj` and `v_proj` of each layer, with small values that depend on the seed."""
    tensors: dict[str, tuple[list[int], list[float]]] = {}
    count = seed
    places = [(part, target) for part in ("self_attn", "encoder_attn") for target in ("q_proj", "v_proj")]
    for layer in range(layers):
        for part, target in places:
            for kind, shape in (("lora_A", [rank, hidden]), ("lora_B", [hidden, rank])):
                values = []
                for _ in range(shape[0] * shape[1]):
                    count = (count * 1103515245 + 12345) % 2**31
                    values.append(count / 2**31 - 0.5)
                tensors[f"{prefix}.layers.{layer}.{part}.{target}.{kind}.weight"] = (shape, values)
    return tensors


def lora_config(**changes: Any) -> dict[str, Any]:
    """What peft writes beside the weights, as far as it matters."""
    config = {
        "base_model_name_or_path": "facebook/musicgen-small",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": 4,
        "target_modules": ["q_proj", "v_proj"],
        "task_type": None,
    }
    return {**config, **changes}


def adapter_files(*, seed: int = 1, readme: str | None = None, **changes: Any) -> dict[str, bytes]:
    """A sound adapter's files by name. `changes` go into its config."""
    files = {
        CONFIG: json.dumps(lora_config(**changes), indent=2).encode(),
        WEIGHTS: safetensors(lora_tensors(seed=seed)),
    }
    return files if readme is None else {**files, "README.md": readme.encode()}


def zipped(
    files: Mapping[str, bytes] | Iterable[tuple[str, bytes]],
    *,
    top: str = "",
    method: int = zipfile.ZIP_DEFLATED,
    comment: bytes = b"",
) -> bytes:
    """A zip of these files, as an honest program writes it."""
    buffer = io.BytesIO()
    pairs = files.items() if isinstance(files, Mapping) else files
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.comment = comment
        for name, content in pairs:
            archive.writestr(f"{top}{name}", content)
    return buffer.getvalue()


# --- zips written by hand ---


@dataclass
class Entry:
    """One entry with everything in it open to lies. None stands for the truth."""

    name: bytes
    content: bytes = b""
    method: int = 8
    flags: int = 0
    local_name: bytes | None = None
    local_method: int | None = None
    size: int | None = None
    compressed: int | None = None
    crc: int | None = None
    external: int = 0
    made_by: int = 3 << 8
    offset: int | None = None
    packed: bytes | None = None

    def data(self) -> bytes:
        if self.packed is not None:
            return self.packed
        if self.method == 8:
            packer = zlib.compressobj(9, zlib.DEFLATED, -15)
            return packer.compress(self.content) + packer.flush()
        return self.content


def forged(
    entries: Iterable[Entry],
    *,
    prefix: bytes = b"",
    comment: bytes = b"",
    count: int | None = None,
    directory_size: int | None = None,
    directory_offset: int | None = None,
    disk: int = 0,
    edit: Callable[[bytes], bytes] = lambda content: content,
) -> bytes:
    """A zip whose headers say what the entries say, whether it is true or not."""
    body, directory, number = bytearray(prefix), bytearray(), 0
    for entry in entries:
        number += 1
        packed = entry.data()
        size = len(entry.content) if entry.size is None else entry.size
        compressed = len(packed) if entry.compressed is None else entry.compressed
        crc = zlib.crc32(entry.content) if entry.crc is None else entry.crc
        local = entry.name if entry.local_name is None else entry.local_name
        method = entry.method if entry.local_method is None else entry.local_method
        offset = len(body) - len(prefix) if entry.offset is None else entry.offset
        figures = (crc, compressed, size)
        body += struct.pack("<4s5H3L2H", b"PK\3\4", 20, entry.flags, method, 0, 33, *figures, len(local), 0)
        body += local + packed
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", entry.made_by | 20, 20, entry.flags, entry.method, 0, 33, *figures,
            len(entry.name), 0, 0, 0, 0, entry.external, offset,
        ) + entry.name  # fmt: skip
    count = number if count is None else count
    size = len(directory) if directory_size is None else directory_size
    offset = len(body) - len(prefix) if directory_offset is None else directory_offset
    end = struct.pack("<4s4H2LH", b"PK\5\6", disk, disk, count, count, size, offset, len(comment))
    return edit(bytes(body + directory + end + comment))


def with_entries(*extra: Entry) -> bytes:
    """A sound adapter's files with more entries beside them, all written by hand."""
    return forged([*(Entry(name.encode(), content) for name, content in adapter_files().items()), *extra])
