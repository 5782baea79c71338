"""The table of adapters: its querysets agree with the verdict, its constraints keep rows consistent."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from adapters.format.compatibility import Verdict
from adapters.format.fingerprint import Fingerprint
from adapters.models import Adapter
from registry.models import ModelConfig
from tests.adapters import made
from tests.adapters.conftest import AdapterOn, RowOf
from tests.media_files import weights_file


def plain(number: int, **facts: Any) -> Adapter:
    """A row of no file, whose fingerprint tells what `facts` say and nothing else."""
    return Adapter(
        **{
            "name": f"Adapter {number}",
            "sha256": f"{number:064x}",
            "weights_sha256": f"{number:064x}",
            "file_bytes": 1000,
            "config": {},
            "tensor_count": 32,
            "rank": 4,
            "alpha": 8.0,
            "source": "folder",
            **facts,
        }
    )


LIMITS: dict[str, Any] = {
    "max_duration_seconds": 30,
    "recommended_duration_seconds": 10,
    "vram_requirement_gb": 1,
}

# Mostly one value for models and mostly none for files, so that many fit and few fields decide; None is "not known".
FAMILY = st.sampled_from(["musicgen", "musicgen", "musicgen", "musicgen", None, "musicgen_melody"])
SMALL = st.sampled_from([2, 2, 2, 2, None, 1, 3])
MODEL = st.fixed_dictionaries(
    {
        "family": FAMILY,
        "hidden_size": SMALL,
        "layers": SMALL,
        "ffn_dim": SMALL,
        "heads": SMALL,
        "text_width": SMALL,
        "codebooks": st.sampled_from([2, 2, 2, 1, 3]),
        "channels": st.sampled_from([1, 1, 1, 2]),
    }
)


def _reaches_no_further_than_it_tells(told: dict[str, Any]) -> bool:
    return all((told[name] or 9) >= (told[f"min_{name}"] or 0) for name in ("layers", "codebooks"))


_TOLD: dict[str, st.SearchStrategy[Any]] = {
    name: st.one_of(st.none(), st.none(), st.none(), FAMILY if name == "family" else SMALL)
    for name in asdict(Fingerprint())
    if name != "channels"
}
FINGERPRINT = st.fixed_dictionaries(_TOLD).filter(_reaches_no_further_than_it_tells)


class QuerysetsAgreeWithTheVerdict(TestCase):
    """Over random models and fingerprints, in the database as in Python."""

    @given(
        models=st.lists(MODEL, min_size=1, max_size=4),
        adapters=st.lists(
            st.tuples(FINGERPRINT, st.none() | st.integers(0, 3), st.booleans()), min_size=1, max_size=12
        ),
    )
    @hypothesis_settings(max_examples=60, deadline=None)
    def test_compatible_is_what_the_verdict_calls_usable(
        self, models: list[dict[str, Any]], adapters: list[tuple[dict[str, Any], int | None, bool]]
    ) -> None:
        rows = [
            ModelConfig.objects.create(
                id=f"m{number}", display_name=f"M{number}", hf_model_id=f"a/m{number}", **LIMITS, **facts
            )
            for number, facts in enumerate(models)
        ]
        for number, (told, base, is_broken) in enumerate(adapters):
            base_model = rows[base % len(rows)] if base is not None else None
            broken = (
                {"broken_code": "GONE", "broken_reason": "It is gone."}
                if is_broken and number % 3 == 0
                else {}
            )
            plain(number, base_model=base_model, **told, **broken).save()
        known = list(Adapter.objects.select_related("base_model"))
        for model in rows:
            usable = {adapter.pk for adapter in known if adapter.judge(model).is_usable}
            compatible = set(Adapter.objects.compatible_with(model).values_list("pk", flat=True))
            incompatible = set(Adapter.objects.incompatible_with(model).values_list("pk", flat=True))
            assert compatible == usable
            assert incompatible == {adapter.pk for adapter in known} - usable


def test_the_querysets_are_found_on_filtered_ones_too(dwarfs: dict[str, ModelConfig]) -> None:
    plain(1, name="Jazz", base_model=dwarfs["mono"]).save()
    plain(2, name="Rock", base_model=dwarfs["mono"]).save()
    plain(3, name="Jazz Wide", base_model=dwarfs["wide"]).save()
    jazz = Adapter.objects.search("jazz")
    assert [str(row) for row in jazz.compatible_with(dwarfs["mono"])] == ["Jazz v1.0"]
    assert [str(row) for row in jazz.incompatible_with(dwarfs["mono"])] == ["Jazz Wide v1.0"]


def test_one_question_is_one_query(dwarfs: dict[str, ModelConfig], django_assert_num_queries: Any) -> None:
    for number in range(3):
        plain(number, base_model=dwarfs["mono"]).save()
    with django_assert_num_queries(1):
        assert len(Adapter.objects.compatible_with(dwarfs["mono"])) == 3
    with django_assert_num_queries(1):
        assert len(Adapter.objects.incompatible_with(dwarfs["mono"])) == 0


def test_fingerprints_are_indexed(db: None) -> None:
    with connection.cursor() as cursor:
        constraints = connection.introspection.get_constraints(cursor, Adapter._meta.db_table)
    assert any(
        found["index"] and found["columns"][:3] == ["broken_code", "family", "hidden_size"]
        for found in constraints.values()
    )


@pytest.mark.parametrize(
    ("version", "label"),
    [
        ("1.0", "My Jazz Adapter v1.0"),
        ("v2", "My Jazz Adapter v2"),
        ("V3b", "My Jazz Adapter V3b"),
        ("final", "My Jazz Adapter vfinal"),
    ],
)
def test_its_label_is_name_and_version(version: str, label: str) -> None:
    assert str(Adapter(name="My Jazz Adapter", version=version)) == label


def test_its_weights_lie_in_the_home_under_their_hash() -> None:
    adapter = plain(1)
    assert (
        weights_file(adapter) == settings.STUDIO.home / "adapters" / f"{adapter.weights_sha256}.safetensors"
    )


@pytest.mark.parametrize(
    "facts",
    [
        {"default_strength": -0.1},
        {"default_strength": 2.1},
        {"name": ""},
        {"version": ""},
        {"sha256": "abc"},
        {"weights_sha256": ""},
        {"broken_code": "GONE"},
        {"broken_reason": "It is gone."},
        {"rank": 0},
        {"layers": 2, "min_layers": 3},
        {"codebooks": 4, "min_codebooks": 5},
        {"family": "llama"},
    ],
)
def test_rows_that_make_no_sense_are_refused(facts: dict[str, Any], db: None) -> None:
    plain(1).save()
    with pytest.raises(IntegrityError), transaction.atomic():
        plain(2, **facts).save()
    assert Adapter.objects.count() == 1


def test_names_and_versions_are_one_in_any_case(db: None) -> None:
    plain(1, name="My Jazz", version="v1").save()
    with pytest.raises(IntegrityError), transaction.atomic():
        plain(2, name="MY jazz", version="V1").save()
    plain(3, name="My Jazz", version="v2").save()


def test_two_adapters_may_share_their_weights_and_content(db: None) -> None:
    plain(1).save()
    plain(2, weights_sha256=f"{1:064x}", sha256=f"{1:064x}").save()
    assert Adapter.objects.filter(weights_sha256=f"{1:064x}").count() == 2


def test_a_name_that_is_taken_is_refused_with_a_sentence(db: None) -> None:
    plain(1, name="Jazz").save()
    with pytest.raises(ValidationError, match="Choose another version"):
        plain(2, name="jazz").full_clean()


def test_an_impossible_base_model_is_refused_with_the_reason(
    dwarfs: dict[str, ModelConfig], adapter_on: AdapterOn, row_of: RowOf, tmp_path: Path
) -> None:
    adapter = row_of(made.with_base(adapter_on("mono"), tmp_path / "a", None))
    adapter.base_model = dwarfs["wide"]
    with pytest.raises(ValidationError) as refused:
        adapter.full_clean()
    assert refused.value.message_dict == {
        "base_model": ["Dwarf Wide cannot be its base model: made for hidden size 16, this model has 24."]
    }
    adapter.base_model = dwarfs["mono"]
    adapter.full_clean()
    adapter.base_model = None
    adapter.full_clean()


def test_a_deleted_model_leaves_its_adapters(dwarfs: dict[str, ModelConfig]) -> None:
    plain(1, base_model=dwarfs["mono"], hidden_size=16).save()
    dwarfs["mono"].delete()
    adapter = Adapter.objects.get()
    assert adapter.base_model is None
    assert adapter.judge(dwarfs["stereo"]).verdict is Verdict.UNKNOWN_BASE


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {"Warm Jazz", "Rock"}),
        ("jazz", {"Warm Jazz"}),
        ("JAZZ warm", {"Warm Jazz"}),
        ("jazz cold", set()),
        ("saxo", {"Warm Jazz"}),
        ("2.1", {"Rock"}),
        ("guitar", {"Rock"}),
        ("someone/base", {"Rock"}),
        ("Dwarf Mono", {"Warm Jazz"}),
        ("%", set()),
        ("\0", {"Warm Jazz", "Rock"}),
    ],
)
def test_search_finds_every_word_anywhere(text: str, found: set[str], dwarfs: dict[str, ModelConfig]) -> None:
    plain(1, name="Warm Jazz", trigger_words="saxophone", base_model=dwarfs["mono"]).save()
    plain(2, name="Rock", version="2.1", description="Loud guitars", base_model_name="someone/base").save()
    assert {adapter.name for adapter in Adapter.objects.search(text)} == found
