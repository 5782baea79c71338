"""What the memory calculator knows of a model, kept with its row: estimating is then plain arithmetic.

The catalogue's descriptions ship as a file; those of other models are computed once, in the calculator's process.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from django.db import DEFAULT_DB_ALIAS

from gated_configs.memory import Architecture

if TYPE_CHECKING:
    from registry.models import ModelConfig

#: Written by `python -m tests.registry.descriptions`; a test computes it anew.
CATALOG_FILE: Final = Path(__file__).resolve().parent / "catalog_architectures.json"
FROM_CATALOG: Final = "catalogue"
FROM_CONFIG: Final = "config"


def record_of(architecture: Architecture, *, source: str, config_sha256: str) -> dict[str, Any]:
    """A description as a row keeps it."""
    return {"source": source, "config_sha256": config_sha256, "described": architecture.as_json()}


def described(record: Any) -> Architecture | None:
    """The description that a row keeps; None where it has none, or one of a release whose words were others."""
    try:
        return Architecture.from_json(record["described"])
    except (KeyError, TypeError, ValueError):
        return None


@cache
def catalog_records() -> dict[str, dict[str, Any]]:
    """The shipped descriptions by Hugging Face id, as rows keep them."""
    records: dict[str, dict[str, Any]] = json.loads(CATALOG_FILE.read_text(encoding="utf-8"))
    return records


def seed_descriptions(*, using: str = DEFAULT_DB_ALIAS, table: type[ModelConfig]) -> None:
    """Bring rows of published models up to the shipped descriptions, unless an installed checkpoint told more.

    `table` may be a migration's historical model.
    """
    records = catalog_records()
    for row in table._default_manager.using(using).filter(hf_model_id__in=list(records)):
        told = isinstance(row.architecture, dict) and row.architecture.get("source") != FROM_CATALOG
        if told and described(row.architecture) is not None:
            continue
        if row.architecture != records[row.hf_model_id]:
            row.architecture = records[row.hf_model_id]
            row.save(using=using, update_fields=["architecture"])
