"""Fixtures of the site's tests."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def home(tmp_path: Path, settings: Any) -> Path:
    """A home of this test's own for takes, scratch files and caches."""
    settings.STUDIO = settings.STUDIO.model_copy(update={"home": tmp_path / "home"})
    return tmp_path / "home"
