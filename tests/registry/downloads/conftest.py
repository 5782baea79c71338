"""Fixtures of the downloads' tests: a running fake hub, an empty cache, and somebody who fetches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.downloads import plan, transfer
from tests.hub import FakeHub
from tests.registry.downloads.caller import FILES, REPO, Caller


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses to speak of, and none of this machine's own settings of the hub."""
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))]:
        monkeypatch.delenv(name)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    for module in (plan, transfer):
        monkeypatch.setattr(module, "PAUSES_SECONDS", (0.01, 0.01, 0.02))
    monkeypatch.setattr("gated_configs.hub.client.get_token", lambda: os.environ.get("HF_TOKEN"))


@pytest.fixture
def fake() -> Iterator[FakeHub]:
    with FakeHub({REPO: FILES}) as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub"


@pytest.fixture
def caller(fake: FakeHub, cache: Path) -> Caller:
    return Caller(fake, cache)


@pytest.fixture
def environment(fake: FakeHub, cache: Path) -> dict[str, str]:
    """For a process that has the same hub and cache."""
    return {**os.environ, **fake.environment(cache.parent)}
