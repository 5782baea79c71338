"""What tests of generation share: a home for each test, and channels that nothing was left in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from channels.layers import channel_layers

from adapters.models import Adapter
from registry.models import ModelConfig
from tests.adapters.conftest import AdapterOn, CheckpointOf, adapter_on, checkpoint_of
from tests.generation.adapting import bring_in, dwarf_model

__all__ = ["adapter_on", "checkpoint_of"]


@pytest.fixture
def home(tmp_path: Path, settings: Any) -> Path:
    """A home of this test's own for takes, scratch files and caches."""
    settings.STUDIO = settings.STUDIO.model_copy(update={"home": tmp_path / "home"})
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def _empty_channels() -> Iterator[None]:
    # The in-memory layer outlives a test, and its queues belong to the event loop that first used them.
    channel_layers.backends.clear()
    yield
    channel_layers.backends.clear()


@pytest.fixture
def mono(db: None, checkpoint_of: CheckpointOf) -> ModelConfig:
    """A dwarf model, active: what most adapters of these tests are made for."""
    return dwarf_model("mono", checkpoint_of("mono"), active=True)


@pytest.fixture
def jazz(mono: ModelConfig, adapter_on: AdapterOn) -> Adapter:
    """A real adapter for `mono`."""
    return bring_in(adapter_on("mono", "whole"), "Jazz", base_model=mono.pk)


@pytest.fixture
def funk(mono: ModelConfig, adapter_on: AdapterOn) -> Adapter:
    """Another one, that stacks with it."""
    return bring_in(adapter_on("mono", "feed_forward"), "Funk", base_model=mono.pk, default_strength=0.7)
