"""One calculator for all tests here: its child starts once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gated_configs.memory import Architecture, describe
from tests.memory.samples import FOLDER


def sample_config(name: str) -> dict[str, Any]:
    """The config of a given sample by its file name."""
    config: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())["config"]
    return config


@pytest.fixture(scope="session")
def llama() -> Architecture:
    return describe(sample_config("llama-3-8b"))


@pytest.fixture(scope="session")
def musicgen() -> Architecture:
    return describe(sample_config("musicgen-small"))
