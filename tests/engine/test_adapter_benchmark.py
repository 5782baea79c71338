"""`benchmark adapters` on a dwarf: real runners, one round."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command

from generation.engine.adapters.attach import Attachment
from generation.engine.adapters.proof import fixed_logits
from generation.engine.checkpoint import LoadedModel
from musicgen_site.benchmarks.adapters import make_adapter


@pytest.mark.django_db
def test_it_measures_changes_beside_reloads_in_one_run(mono: Path) -> None:
    printed = StringIO()
    options = {"checkpoint": mono, "rounds": 1, "stderr": StringIO()}
    call_command("benchmark", "adapters", json=True, stdout=printed, **options)
    figures = json.loads(printed.getvalue())
    assert figures["hardware"]
    assert (len(figures["change_seconds"]), len(figures["reload_seconds"])) == (2, 1)
    pairs = {
        "change_to_reload": ("change_seconds", "reload_seconds"),
        "change_to_reload_with_frame": ("change_to_frame_seconds", "reload_to_frame_seconds"),
    }
    for ratio, (change, reload) in pairs.items():
        middle = sum(figures[change]) / 2
        # The figures are told to a millisecond, the ratio is of what was measured.
        assert figures[ratio] == pytest.approx(middle / figures[reload][0], rel=0.1, abs=0.02)


def test_its_adapters_change_every_layer(mono: Path, mono_model: LoadedModel, tmp_path: Path) -> None:
    attachment = Attachment()
    adapted = attachment.model_for(mono_model, [make_adapter(mono, tmp_path, seed=1)])
    assert len(attachment.attached[0].low_rank) == 2 * 10
    assert (fixed_logits(adapted) - fixed_logits(mono_model)).abs().mean() > 1e-4
