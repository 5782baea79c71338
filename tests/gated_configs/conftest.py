"""Fixtures of configs: a running fake hub with models of each kind, and sample configs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from gated_configs.services import hub_configs, rate_limits
from tests.hub import FakeHub
from tests.memory.conftest import sample_config

#: Nobody listens there.
NOWHERE = "http://127.0.0.1:9"
TINY: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 128,
}


def text_of(config: dict[str, Any]) -> bytes:
    """The config.json of a config."""
    return json.dumps(config, indent=2).encode()


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of this machine's own settings of the hub, and no pauses to speak of."""
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))]:
        monkeypatch.delenv(name)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    monkeypatch.setattr("gated_configs.hub.client.get_token", lambda: os.environ.get("HF_TOKEN"))
    monkeypatch.setattr(hub_configs, "PAUSES_SECONDS", (0.01,))
    monkeypatch.setattr(hub_configs, "_silent_until", {})


@pytest.fixture
def clock_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a limit comes back while a slow machine uses it up."""
    now = time.time()
    monkeypatch.setattr(rate_limits, "time", SimpleNamespace(time=lambda: now))


@pytest.fixture
def tiny() -> dict[str, Any]:
    """A small valid config, to change at will."""
    return json.loads(json.dumps(TINY))  # type: ignore[no-any-return]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with `studio/tiny`, `gpt2`, the gated `meta-llama/gated`, and `studio/empty` without a config."""
    repositories = {
        "studio/tiny": {"config.json": text_of(TINY)},
        "gpt2": {"config.json": text_of(sample_config("gpt2"))},
        "meta-llama/gated": {"config.json": text_of({**TINY, "num_hidden_layers": 3})},
        "studio/empty": {"README.md": b"Nothing here."},
    }
    with FakeHub(repositories) as running:
        running.gate("meta-llama/gated")
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        yield running
