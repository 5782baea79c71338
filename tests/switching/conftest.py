"""What tests of switching share: dwarf checkpoints, sound and broken, and an engine that carries switches out."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from channels.layers import channel_layers

from tests.generation.test_dispatcher import Engine, runners


@pytest.fixture(scope="session")
def dwarfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of dwarf checkpoints: `mono` and `stereo` play, `truncated`, `other`, `misfit` and `nan` do not."""
    from safetensors.torch import load_file, save_file

    from tests.engine.dwarf import build_dwarf

    folder = tmp_path_factory.mktemp("dwarfs")
    build_dwarf(folder / "mono", seed=1)
    build_dwarf(folder / "stereo", channels=2, seed=2)
    for name in ("truncated", "other", "misfit", "nan"):
        shutil.copytree(folder / "mono", folder / name)

    weights = folder / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    _edit_config(folder / "other", model_type="encodec")
    # Its files are whole, but the weights are those of another shape: only loading finds that.
    config = json.loads((folder / "misfit" / "config.json").read_text())
    _edit_config(folder / "misfit", decoder={**config["decoder"], "num_hidden_layers": 3})
    weights = folder / "nan" / "model.safetensors"
    tensors = load_file(weights)
    for name, tensor in tensors.items():
        if "lm_heads" in name:
            tensor.fill_(float("nan"))
    save_file(tensors, weights, metadata={"format": "pt"})
    return folder


def _edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture(autouse=True)
def _empty_channels() -> Iterator[None]:
    # The in-memory layer outlives a test, and its queues belong to the event loop that first used them.
    channel_layers.backends.clear()
    yield
    channel_layers.backends.clear()


@pytest.fixture(scope="module")
def engine(django_db_setup: None, django_db_blocker: Any, kernels_folder: Path) -> Iterator[Engine]:
    """One engine for a module. It keeps working between tests, so the database stays open to it."""
    with django_db_blocker.unblock(), pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")
        running = Engine()
        yield running
        running.stop()
    assert runners() == [], "a stopped engine leaves no runner behind"
