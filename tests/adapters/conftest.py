"""Fixtures of the adapters' tests: dwarf checkpoints, adapters made on them, and their rows.

Checkpoints and adapters are made once a session: spoil copies of them. Only what makes them imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from adapters.format.inspection import identity, inspect
from adapters.models import Adapter
from adapters.services import believed_base
from registry.models import ModelConfig
from registry.services import note_architecture

if TYPE_CHECKING:
    from tests.adapters import made

CheckpointOf = Callable[..., Path]
AdapterOn = Callable[..., Path]
RowOf = Callable[..., Adapter]


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> CheckpointOf:
    """Folder of the dwarf checkpoint of a kind."""
    from tests.adapters import made

    folders: dict[str, Path] = {}

    def find(kind: made.Kind) -> Path:
        if kind not in folders:
            folders[kind] = made.make_checkpoint(tmp_path_factory.mktemp(kind), kind)
        return folders[kind]

    return find


@pytest.fixture(scope="session")
def adapter_on(checkpoint_of: CheckpointOf, tmp_path_factory: pytest.TempPathFactory) -> AdapterOn:
    """Folder of a real adapter on a kind of dwarf, by the name of its recipe or the recipe itself."""
    from tests.adapters import made

    folders: dict[tuple[str, Any], Path] = {}

    def find(kind: made.Kind = "mono", way: str | made.Recipe = "whole") -> Path:
        recipe = made.WAYS[way] if isinstance(way, str) else way
        if (kind, recipe) not in folders:
            folders[kind, recipe] = made.make_adapter(
                checkpoint_of(kind), tmp_path_factory.mktemp("adapter"), recipe
            )
        return folders[kind, recipe]

    return find


@pytest.fixture
def dwarfs(db: None, checkpoint_of: CheckpointOf) -> dict[str, ModelConfig]:
    """The dwarfs as an admin would add them, installed, so that it is known how each is built."""
    from tests.adapters import made

    rows: dict[str, ModelConfig] = {}
    for kind in made.KINDS:
        model = ModelConfig.objects.create(
            id=f"dwarf-{kind}",
            display_name=f"Dwarf {kind.title()}",
            hf_model_id=f"dwarfs/musicgen-{kind}",
            max_duration_seconds=30,
            recommended_duration_seconds=10,
            vram_requirement_gb=1,
        )
        note_architecture(model, checkpoint_of(kind))
        rows[kind] = model
    return rows


@pytest.fixture
def row_of(db: None) -> RowOf:
    """The row of an adapter folder, filled as an import fills it; `facts` replace what the files tell."""

    from tests.adapters import made

    def make(folder: Path, **facts: Any) -> Adapter:
        found = inspect(folder / made.WEIGHTS, (folder / made.CONFIG).read_bytes())
        base, notes = believed_base(found.base_model_name, found.fingerprint)
        count = Adapter.objects.count() + 1
        weights_sha256 = f"{count:064x}"
        row: dict[str, Any] = {
            "name": f"Adapter {count}",
            "sha256": identity(weights_sha256, found.config),
            "weights_sha256": weights_sha256,
            "file_bytes": found.header.file_bytes,
            "config": found.config.as_dict(),
            "tensor_count": found.tensor_count,
            "rank": found.rank,
            "alpha": found.alpha,
            "variants": found.variants,
            "notes": [*found.notes, *notes],
            "source": "folder",
            "base_model_name": found.base_model_name,
            "base_model": base,
            **asdict(found.fingerprint),
        }
        return Adapter.objects.create(**{**row, **facts})

    return make
