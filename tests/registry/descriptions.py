"""Writes registry/catalog_architectures.json: `python -m tests.registry.descriptions`. A test holds the file to it."""

from __future__ import annotations

import json
from typing import Any

from gated_configs.memory import check_config, config_hash, describe
from gated_configs.services.builtin import builtin_config
from registry.apps import demo_config
from registry.catalog import DEMO_HF_ID, MODEL_CONFIGS
from registry.described import CATALOG_FILE, FROM_CATALOG, record_of


def catalog_config(model_id: str) -> dict[str, Any]:
    """The config of a model of the catalogue."""
    config = demo_config() if model_id == DEMO_HF_ID else builtin_config(model_id)
    assert config is not None, f"{model_id} has no built-in config"
    return config


def descriptions() -> dict[str, Any]:
    """What the calculator says of every model of the catalogue, as rows keep it."""
    records = {}
    for model_id in MODEL_CONFIGS:
        config = check_config(catalog_config(model_id)).config
        records[model_id] = record_of(
            describe(config), source=FROM_CATALOG, config_sha256=config_hash(config)
        )
    return records


if __name__ == "__main__":
    import django

    django.setup()
    CATALOG_FILE.write_text(json.dumps(descriptions(), indent=1) + "\n", encoding="utf-8")
