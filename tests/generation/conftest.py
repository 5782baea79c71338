"""What tests of generation share: a home for each test, and channels that nothing was left in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from channels.layers import channel_layers


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
