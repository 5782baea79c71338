"""The short form of `python -m tests.chaos`: each kind of accident once, over a few jobs, with a fixed seed."""

import json
from pathlib import Path

import pytest

from tests.chaos.killing import WEIGHTS
from tests.chaos.run import chaos
from tests.chaos.world import MODELS

pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.redis]


def test_every_job_ends_once_whatever_falls(
    postgres_server: str, redis_server: str, kernels_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The servers of other tests are asked for only so that this one is skipped where they are missing."""
    # One model: each other one would be loaded by each host, and again after each kill.
    findings = chaos(
        kills=len(WEIGHTS),
        jobs=8,
        seed=11,
        webs=1,
        pause=(0.2, 1.0),
        say=print,
        models=MODELS[:1],
        kernels=kernels_folder,
    )
    print(json.dumps(findings.counts, indent=2))
    assert findings.faults == [], capsys.readouterr().out
    assert findings.counts["kills"] == len(WEIGHTS), findings.counts
    assert findings.counts["jobs"] >= 8
    assert set(findings.counts["outcomes"]) <= {"finished", "failed"}
