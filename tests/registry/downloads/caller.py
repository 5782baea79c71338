"""A small repository, and somebody who fetches it from the fake hub and notes what they hear."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from registry.downloads import DownloadPlan, download, installed_folder, plan_download, verify_checkpoint
from tests.hub import FakeHub, blob_hashes

REPO = "studio/dwarf"
WEIGHTS = "model.safetensors"


def safetensors(count: int = 300_000, seed: int = 1) -> bytes:
    """A sound weight file of that many random bytes."""
    content = random.Random(seed).randbytes(count)
    header = json.dumps({"w": {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}}).encode()
    return len(header).to_bytes(8, "little") + header + content


FILES = {
    ".gitattributes": b"* text",
    "README.md": b"# Dwarf",
    "config.json": b'{"model_type": "musicgen"}',
    "generation_config.json": b"{}",
    "tokenizer.json": b'{"model": {}}',
    "spiece.model": b"pieces",
    "empty.txt": b"",
    "model.safetensors": safetensors(),
    "pytorch_model.bin": b"never read",
    "state_dict.bin": b"never read",
    "compression_state_dict.bin": b"never read",
    "onnx/model.onnx": b"never read",
}
READ = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "spiece.model",
    "empty.txt",
    "model.safetensors",
}
TOTAL = sum(len(FILES[name]) for name in READ)


class Caller:
    """Plans and downloads as the engine does, and notes what it hears."""

    def __init__(self, fake: FakeHub, cache: Path) -> None:
        self.fake = fake
        self.cache = cache
        self.heard: list[tuple[int, int]] = []
        self.stop_when: Callable[[], bool] = lambda: False

    def plan(self, repo_id: str = REPO, revision: str = "", token: str | None = None) -> DownloadPlan:
        return plan_download(
            repo_id, revision, endpoint=self.fake.endpoint, cache=self.cache, token=token or ""
        )

    def download(self, plan: DownloadPlan | None = None, token: str | None = None) -> Path:
        return download(
            plan or self.plan(),
            on_bytes=lambda done, total: self.heard.append((done, total)),
            should_stop=lambda: self.stop_when(),
            token=token or "",
        )

    def installed(self, revision: str = "") -> Path | None:
        return installed_folder(REPO, revision, cache=self.cache)

    def verify(self, folder: Path, plan: DownloadPlan | None = None) -> list[float]:
        fractions: list[float] = []
        verify_checkpoint(folder, plan, on_fraction=fractions.append, should_stop=self.stop_when)
        return fractions

    def part(self) -> Path:
        """Where what has arrived of the weights lies."""
        storage = self.cache / "models--studio--dwarf"
        return storage / "blobs" / f"{blob_hashes(FILES[WEIGHTS])[1]}.incomplete"
