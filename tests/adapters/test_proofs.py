"""Proofs: what passes, what fails and why, which are due, and what a form offers because of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.db import IntegrityError, transaction

from adapters.format.compatibility import Verdict
from adapters.models import Adapter, AdapterProof, ProofStatus
from adapters.services import (
    Measurement,
    choice_for,
    mark_broken,
    mark_sound,
    proof_for,
    proofs_on,
    record_failure,
    record_proof,
    unproven_on,
    usable_for,
)
from registry.models import ModelConfig
from tests.adapters import made
from tests.adapters.conftest import AdapterOn, RowOf

GOOD = Measurement(
    tensors_expected=32,
    tensors_matched=32,
    logit_change=0.4,
    logit_change_at_zero=0.0,
    logit_change_after=0.0,
    seconds=0.2,
    device="cpu",
    dtype="float32",
)


@pytest.fixture
def jazz(dwarfs: dict[str, ModelConfig], adapter_on: AdapterOn, row_of: RowOf, tmp_path: Path) -> Adapter:
    """A sound adapter made on the mono dwarf, whose base is known."""
    return row_of(made.with_base(adapter_on("mono"), tmp_path / "jazz", "dwarfs/musicgen-mono"), name="Jazz")


@pytest.fixture
def loose(dwarfs: dict[str, ModelConfig], adapter_on: AdapterOn, row_of: RowOf, tmp_path: Path) -> Adapter:
    """One that fits two dwarfs, as nobody knows its base."""
    return row_of(made.with_base(adapter_on("mono"), tmp_path / "loose", None), name="Loose")


@pytest.fixture
def wide(dwarfs: dict[str, ModelConfig], adapter_on: AdapterOn, row_of: RowOf, tmp_path: Path) -> Adapter:
    """One made on another model."""
    return row_of(
        made.with_base(adapter_on("wide"), tmp_path / "wide", "dwarfs/musicgen-wide"), name="Big Band"
    )


def test_a_measurement_that_proves_it_passes(jazz: Adapter, dwarfs: dict[str, ModelConfig]) -> None:
    proof = record_proof(adapter=jazz, model=dwarfs["mono"], measurement=GOOD, revision="abc")
    proof.refresh_from_db()
    assert proof.status == ProofStatus.PASSED
    assert (proof.tensors_matched, proof.logit_change, proof.is_restored) == (32, 0.4, True)
    assert (proof.device, proof.dtype, proof.revision, proof.error_code) == ("cpu", "float32", "abc", "")
    assert str(proof) == "Jazz v1.0 on Dwarf Mono: passed"


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"tensors_matched": 31}, "ADAPTER_MISMATCH", "Only 31 of its 32 tensors"),
        ({"tensors_matched": 0}, "ADAPTER_MISMATCH", "Only 0 of its 32 tensors"),
        ({"tensors_matched": 0, "tensors_expected": 0}, "ADAPTER_MISMATCH", "Only 0 of its 0 tensors"),
        ({"logit_change": 0.0}, "ADAPTER_NO_EFFECT", "changes nothing"),
        ({"logit_change": float("nan")}, "ADAPTER_NO_EFFECT", "changes nothing"),
        ({"logit_change": float("inf")}, "ADAPTER_NO_EFFECT", "changes nothing"),
        ({"logit_change_at_zero": 1e-9}, "ADAPTER_NOT_RESTORED", "At strength 0"),
        ({"logit_change_after": 1e-9}, "ADAPTER_NOT_RESTORED", "After it was taken off"),
        ({"logit_change_after": float("nan")}, "ADAPTER_NOT_RESTORED", "After it was taken off"),
    ],
)
def test_a_measurement_that_does_not_fails_with_the_reason(
    changes: dict[str, Any], code: str, words: str, jazz: Adapter, dwarfs: dict[str, ModelConfig]
) -> None:
    proof = record_proof(adapter=jazz, model=dwarfs["mono"], measurement=replace(GOOD, **changes))
    proof.refresh_from_db()
    assert (proof.status, proof.error_code) == (ProofStatus.FAILED, code)
    assert words in proof.error_message
    jazz.refresh_from_db()
    assert not jazz.is_broken


@pytest.mark.parametrize(
    "facts",
    [
        {"tensors_matched": 31},
        {"logit_change": 0.0},
        {"logit_change_at_zero": 0.1},
        {"logit_change_after": 0.1},
        {"is_restored": False},
        {"error_code": "X", "error_message": "No."},
        {"status": "failed"},
        {"logit_change": None},
        {"logit_change_after": None},
        {"tensors_matched": None},
        {"is_restored": None},
    ],
)
def test_no_row_says_passed_that_does_not_prove_it(
    facts: dict[str, Any], jazz: Adapter, dwarfs: dict[str, ModelConfig]
) -> None:
    proof = record_proof(adapter=jazz, model=dwarfs["mono"], measurement=GOOD)
    with pytest.raises(IntegrityError), transaction.atomic():
        AdapterProof.objects.filter(pk=proof.pk).update(**facts)


def test_a_later_proof_of_the_same_revision_replaces_the_earlier(
    jazz: Adapter, dwarfs: dict[str, ModelConfig]
) -> None:
    mono = dwarfs["mono"]
    record_failure(
        adapter=jazz, model=mono, code="ADAPTER_MISMATCH", message="It does not fit.", revision="a"
    )
    assert record_proof(adapter=jazz, model=mono, measurement=GOOD, revision="a").status == ProofStatus.PASSED
    proof = proof_for(jazz, mono)
    assert proof is not None
    assert (proof.status, proof.error_code) == (ProofStatus.PASSED, "")
    assert AdapterProof.objects.count() == 1


def test_the_newest_revision_counts(jazz: Adapter, dwarfs: dict[str, ModelConfig]) -> None:
    mono = dwarfs["mono"]
    record_proof(adapter=jazz, model=mono, measurement=GOOD, revision="old")
    newer = record_failure(adapter=jazz, model=mono, code="ADAPTER_MISMATCH", message="No.", revision="new")
    assert proof_for(jazz, mono) == newer
    assert proofs_on(mono) == {jazz.pk: newer}
    assert proof_for(jazz, dwarfs["stereo"]) is None
    again = record_proof(adapter=jazz, model=mono, measurement=GOOD, revision="old")
    assert proof_for(jazz, mono) == again
    assert proofs_on(mono) == {jazz.pk: again}


# --- broken files ---


@pytest.mark.parametrize("code", ["ADAPTER_BROKEN", "ADAPTER_NOT_FOUND"])
def test_a_file_that_is_gone_or_changed_breaks_the_adapter_everywhere(
    code: str, loose: Adapter, dwarfs: dict[str, ModelConfig]
) -> None:
    record_failure(
        adapter=loose, model=dwarfs["mono"], code=code, message="Its file is gone. Import it again."
    )
    loose.refresh_from_db()
    assert (loose.broken_code, loose.broken_reason) == (code, "Its file is gone. Import it again.")
    assert loose.judge(dwarfs["stereo"]).verdict is Verdict.BROKEN
    assert not Adapter.objects.compatible_with(dwarfs["stereo"]).exists()
    assert loose in Adapter.objects.incompatible_with(dwarfs["stereo"])


def test_other_failures_concern_one_model_alone(loose: Adapter, dwarfs: dict[str, ModelConfig]) -> None:
    record_failure(adapter=loose, model=dwarfs["stereo"], code="ADAPTER_MISMATCH", message="It does not fit.")
    loose.refresh_from_db()
    assert not loose.is_broken
    assert choice_for(loose, dwarfs["mono"]).is_usable
    assert not choice_for(loose, dwarfs["stereo"]).is_usable


def test_a_file_that_is_back_is_proven_anew(loose: Adapter, dwarfs: dict[str, ModelConfig]) -> None:
    mono, stereo = dwarfs["mono"], dwarfs["stereo"]
    record_failure(adapter=loose, model=stereo, code="ADAPTER_MISMATCH", message="It does not fit.")
    record_failure(adapter=loose, model=mono, code="ADAPTER_NOT_FOUND", message="Its file is gone.")
    mark_sound(loose)
    loose.refresh_from_db()
    assert not loose.is_broken
    assert proof_for(loose, mono) is None
    assert list(unproven_on(mono)) == [loose]
    # What its file was not to blame for stays.
    assert proof_for(loose, stereo) is not None


def test_what_is_broken_keeps_its_first_reason(jazz: Adapter) -> None:
    assert mark_broken(jazz, code="ADAPTER_NOT_FOUND", reason="Gone. " * 200)
    assert not mark_broken(jazz, code="ADAPTER_BROKEN", reason="Changed.")
    jazz.refresh_from_db()
    assert jazz.broken_code == "ADAPTER_NOT_FOUND"
    assert 0 < len(jazz.broken_reason) <= 500


# --- which are due ---


def test_what_fits_and_was_neither_proven_nor_refused_is_due(
    jazz: Adapter, loose: Adapter, wide: Adapter, dwarfs: dict[str, ModelConfig]
) -> None:
    mono, stereo = dwarfs["mono"], dwarfs["stereo"]
    assert set(unproven_on(mono)) == {jazz, loose}
    record_proof(adapter=jazz, model=mono, measurement=GOOD)
    assert set(unproven_on(mono)) == {loose}
    record_failure(adapter=loose, model=mono, code="ADAPTER_MISMATCH", message="No.")
    assert not unproven_on(mono).exists()
    # On other models nothing is settled by that.
    assert set(unproven_on(stereo)) == {loose}
    assert set(unproven_on(dwarfs["wide"])) == {wide}
    AdapterProof.objects.create(adapter=loose, model=stereo)
    assert set(unproven_on(stereo)) == {loose}


def test_pages_hear_of_proofs(
    jazz: Adapter, dwarfs: dict[str, ModelConfig], django_capture_on_commit_callbacks: Any
) -> None:
    mono = dwarfs["mono"]
    for act in (
        lambda: record_proof(adapter=jazz, model=mono, measurement=GOOD),
        lambda: record_failure(adapter=jazz, model=mono, code="ADAPTER_MISMATCH", message="No."),
        lambda: mark_broken(jazz, code="ADAPTER_NOT_FOUND", reason="Gone."),
        lambda: mark_sound(jazz),
    ):
        with django_capture_on_commit_callbacks() as callbacks:
            act()
        assert len(callbacks) == 1


# --- what a form offers ---


def test_usable_ones_come_first_each_group_by_name(
    jazz: Adapter,
    loose: Adapter,
    wide: Adapter,
    dwarfs: dict[str, ModelConfig],
    row_of: RowOf,
    adapter_on: AdapterOn,
) -> None:
    row_of(adapter_on("deep"), name="a deep one", base_model=dwarfs["deep"])
    offered = [(str(each.adapter), each.is_usable, each.reason) for each in usable_for(dwarfs["mono"])]
    assert offered == [
        ("Jazz v1.0", True, "Made for Dwarf Mono"),
        ("Loose v1.0", True, "Its base model is not known; its shapes fit"),
        ("a deep one v1.0", False, "Requires Dwarf Deep"),
        ("Big Band v1.0", False, "Requires Dwarf Wide"),
    ]


def test_a_locked_one_names_the_model_that_unlocks_it(
    wide: Adapter,
    loose: Adapter,
    dwarfs: dict[str, ModelConfig],
    row_of: RowOf,
    adapter_on: AdapterOn,
    tmp_path: Path,
) -> None:
    assert choice_for(wide, dwarfs["mono"]).unlock_model == dwarfs["wide"]
    assert choice_for(wide, dwarfs["wide"]).unlock_model is None
    # Without a base: the first in the list that its shapes fit.
    assert choice_for(loose, dwarfs["wide"]).unlock_model == dwarfs["mono"]
    # One that cannot be played is nothing to switch to.
    ModelConfig.objects.filter(pk="dwarf-melody").update(is_playable=False, unplayable_reason="A test.")
    melody = row_of(made.with_base(adapter_on("melody"), tmp_path / "m", "dwarfs/musicgen-melody"))
    choice = choice_for(melody, dwarfs["mono"])
    assert (choice.reason, choice.unlock_model) == ("Requires Dwarf Melody", None)
    mark_broken(wide, code="ADAPTER_NOT_FOUND", reason="Its file is gone.")
    broken = choice_for(wide, dwarfs["mono"])
    assert (broken.is_usable, broken.reason, broken.unlock_model) == (False, "Its file is gone.", None)


def test_a_failed_proof_locks_it_with_its_reason(
    loose: Adapter, jazz: Adapter, dwarfs: dict[str, ModelConfig]
) -> None:
    mono = dwarfs["mono"]
    record_failure(adapter=loose, model=mono, code="ADAPTER_NO_EFFECT", message="It changes nothing.")
    record_proof(adapter=jazz, model=mono, measurement=GOOD)
    choices = {each.adapter.pk: each for each in usable_for(mono)}
    assert [each.adapter for each in usable_for(mono)] == [jazz, loose]
    assert (choices[jazz.pk].is_proven, choices[jazz.pk].is_usable) == (True, True)
    assert choices[loose.pk].has_failed
    assert not choices[loose.pk].is_usable
    assert choices[loose.pk].reason == "Failed its proof on this model: It changes nothing."
    assert choices[loose.pk].unlock_model == dwarfs["stereo"]
    # Nobody is sent to a model on which it failed as well.
    record_failure(
        adapter=loose, model=dwarfs["stereo"], code="ADAPTER_NO_EFFECT", message="It changes nothing."
    )
    assert choice_for(loose, mono).unlock_model != dwarfs["stereo"]


def test_the_offer_takes_few_queries_however_long_it_is(
    jazz: Adapter,
    loose: Adapter,
    wide: Adapter,
    dwarfs: dict[str, ModelConfig],
    django_assert_num_queries: Any,
) -> None:
    with django_assert_num_queries(4):
        assert len(usable_for(dwarfs["mono"])) == 3
