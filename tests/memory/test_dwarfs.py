"""Dwarf models really built and really run: predicted bytes of weights and caches equal those of the tensors."""

from __future__ import annotations

from typing import Any

import pytest

from gated_configs.memory import Request, estimate
from gated_configs.memory.description import describe
from tests.memory.dwarfs import DWARFS, build, cache_tensors, forward

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


@pytest.mark.parametrize("name", sorted(DWARFS))
@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_predicted_bytes_are_those_of_the_tensors(name: str, weights: str) -> None:
    dwarf = DWARFS[name]
    architecture = describe(dwarf.config)
    model = build(architecture.class_name, dwarf.config, DTYPES[weights])
    tokens, rows = dwarf.tokens, 2
    request = Request(
        weights=weights,
        batch=rows,
        context=tokens,
        encoder_tokens=dwarf.encoder_tokens,
        duration_seconds=None,
        overhead_bytes=0,
    )
    predicted = estimate(architecture, request)
    parameters = {id(parameter): parameter for parameter in model.parameters()}
    held = sum(parameter.numel() * parameter.element_size() for parameter in parameters.values())
    assert predicted.weight_bytes - 4 * architecture.parameters.buffers == held
    if not architecture.has_cache:
        assert predicted.cache_bytes == 0
        return
    cache: Any = forward(model, dwarf, rows=rows)
    assert predicted.cache_bytes == cache_tensors(cache, model)
