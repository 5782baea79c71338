"""The configs with published figures that the calculator is held to. Data only; read by tests and by accuracy.py."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "data" / "model_configs"


@dataclass(frozen=True)
class Sample:
    """One model: its config, its published figures, and where they come from."""

    model_id: str
    config: dict[str, Any]
    params: int | None
    source: str
    alternatives: tuple[int, ...]
    cache_bytes_per_token: int | None
    model_type: str
    attention: str
    is_given: bool

    @property
    def counts(self) -> set[int]:
        """Every count that a source states."""
        return {count for count in (self.params, *self.alternatives) if count is not None}


def _sample(value: dict[str, Any], *, is_given: bool) -> Sample:
    return Sample(
        model_id=value["model_id"],
        config=value["config"],
        params=value["params"],
        source=value["params_source"],
        alternatives=tuple(item["value"] for item in value.get("params_alt", [])),
        cache_bytes_per_token=value["kv_bytes_per_token_bf16"],
        model_type=value["expected_model_type"],
        attention=value["expected_attention"] or "none",
        is_given=is_given,
    )


def given_samples() -> list[Sample]:
    """Those that came with the task, one file each."""
    return [_sample(json.loads(path.read_text()), is_given=True) for path in sorted(FOLDER.glob("*.json"))]


def further_samples() -> list[Sample]:
    """Others of the same families, with the totals that their repositories or re-implementations publish."""
    lines = (FOLDER / "others.jsonl").read_text().splitlines()
    return [_sample(json.loads(line), is_given=False) for line in lines]


def all_samples() -> list[Sample]:
    """Both."""
    return given_samples() + further_samples()
