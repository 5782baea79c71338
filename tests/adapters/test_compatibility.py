"""The verdict on real adapters for real models: which work, which do not, and the reason in a few words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapters.format.compatibility import (
    EQUAL_FIELDS,
    AdapterFacts,
    Architecture,
    Judgement,
    Verdict,
    contradiction,
    judge,
)
from adapters.format.fingerprint import Fingerprint
from adapters.models import Adapter
from adapters.models.adapter import describe_architecture
from adapters.services import believed_base, find_base
from registry.models import ModelConfig
from tests.adapters import made
from tests.adapters.conftest import AdapterOn, CheckpointOf, RowOf

# --- the matrix: adapters made on each dwarf, judged for each ---

NAMED = {kind: f"dwarfs/musicgen-{kind}" for kind in made.KINDS}


@pytest.mark.parametrize(
    "way", ["whole", "decoder", "feed_forward", "some_layers", "dora", "rslora", "saved_modules"]
)
@pytest.mark.parametrize("trained_on", made.KINDS)
def test_with_a_named_base_only_its_model_is_right(
    trained_on: made.Kind,
    way: str,
    dwarfs: dict[str, ModelConfig],
    adapter_on: AdapterOn,
    row_of: RowOf,
    tmp_path: Path,
) -> None:
    """Of one width, mono and stereo differ in no tensor that these adapters have: the base's name decides."""
    adapter = row_of(made.with_base(adapter_on(trained_on, way), tmp_path / "a", NAMED[trained_on]))
    for kind, model in dwarfs.items():
        verdict = adapter.judge(model)
        if kind == trained_on:
            assert verdict == Judgement(Verdict.EXACT, f"Made for {model.display_name}")
        else:
            assert verdict.verdict is Verdict.INCOMPATIBLE
            assert verdict.reason == f"Requires {dwarfs[trained_on].display_name}"
            assert verdict.required_model_id == f"dwarf-{trained_on}"
            assert verdict.field
        assert Adapter.objects.compatible_with(model).exists() == (kind == trained_on)


#: Models that an adapter without a base may work with: all from which its file does not tell it apart.
WITHOUT_BASE: dict[tuple[made.Kind, str], set[made.Kind]] = {
    ("mono", "whole"): {"mono", "stereo"},
    ("mono", "heads_and_embeddings"): {"mono"},
    ("mono", "saved_modules"): {"mono"},
    ("mono", "all_linear"): {"mono"},
    ("mono", "some_layers"): {"mono", "stereo", "deep"},
    ("stereo", "whole"): {"mono", "stereo"},
    ("stereo", "eight_heads"): {"stereo"},
    ("wide", "whole"): {"wide"},
    ("wide", "feed_forward"): {"wide"},
    ("deep", "whole"): {"deep"},
    ("deep", "feed_forward"): {"deep"},
    ("melody", "whole"): {"melody"},
}
EIGHT_HEADS = made.Recipe(targets=made.heads_and_embeddings(8))


@pytest.mark.parametrize(("trained_on", "way"), WITHOUT_BASE)
@pytest.mark.parametrize(
    "base", [None, "/home/someone/models/musicgen", "./out", "someone/musicgen-jazz", ""]
)
def test_without_a_known_base_the_file_decides(
    trained_on: made.Kind,
    way: str,
    base: str | None,
    dwarfs: dict[str, ModelConfig],
    adapter_on: AdapterOn,
    row_of: RowOf,
    tmp_path: Path,
) -> None:
    folder = adapter_on(trained_on, EIGHT_HEADS if way == "eight_heads" else way)
    adapter = row_of(made.with_base(folder, tmp_path / "a", base))
    assert adapter.base_model is None
    verdicts = {kind: adapter.judge(model) for kind, model in dwarfs.items()}
    usable = {kind for kind, verdict in verdicts.items() if verdict.is_usable}
    assert usable == WITHOUT_BASE[trained_on, way]
    assert usable == {
        kind for kind, model in dwarfs.items() if Adapter.objects.compatible_with(model).exists()
    }
    assert {verdict.verdict for verdict in verdicts.values()} == {Verdict.UNKNOWN_BASE, Verdict.INCOMPATIBLE}


@pytest.mark.parametrize(
    ("trained_on", "judged_for", "field", "reason"),
    [
        ("mono", "wide", "hidden_size", "Made for hidden size 16, this model has 24"),
        ("deep", "mono", "layers", "Made for 3 layers, this model has 2"),
        ("mono", "deep", "layers", "Made for 2 layers, this model has 3"),
        ("mono", "melody", "family", "Made for a text model, this is a melody model"),
        ("melody", "mono", "family", "Made for a melody model, this is a text model"),
    ],
)
def test_the_reason_names_what_differs(
    trained_on: made.Kind,
    judged_for: str,
    field: str,
    reason: str,
    dwarfs: dict[str, ModelConfig],
    adapter_on: AdapterOn,
    row_of: RowOf,
    tmp_path: Path,
) -> None:
    adapter = row_of(made.with_base(adapter_on(trained_on), tmp_path / "a", None))
    assert adapter.judge(dwarfs[judged_for]) == Judgement(Verdict.INCOMPATIBLE, reason, field)


def test_heads_tell_mono_from_stereo(
    dwarfs: dict[str, ModelConfig], adapter_on: AdapterOn, row_of: RowOf, tmp_path: Path
) -> None:
    mono = row_of(made.with_base(adapter_on("mono", "heads_and_embeddings"), tmp_path / "a", None))
    assert mono.judge(dwarfs["stereo"]).reason == "Made for 4 codebooks, this model has 8"
    stereo = row_of(made.with_base(adapter_on("stereo", EIGHT_HEADS), tmp_path / "b", None))
    assert stereo.judge(dwarfs["mono"]).reason == "Made for 8 codebooks, this model has 4"
    heads_alone = row_of(made.with_base(adapter_on("mono", "all_linear"), tmp_path / "c", None))
    assert heads_alone.judge(dwarfs["stereo"]).reason == "Made for 4 codebooks, this model has 8"
    last = made.Recipe(targets=("q_proj", "lm_heads.7"), base_name=None)
    assert row_of(adapter_on("stereo", last)).judge(dwarfs["mono"]).reason == (
        "Made for at least 8 codebooks, this model has 4"
    )


@pytest.mark.parametrize("way", ["whole", "heads_and_embeddings"])
@pytest.mark.parametrize("wrong", ["dwarfs/musicgen-wide", "dwarfs/musicgen-deep", "dwarfs/musicgen-melody"])
def test_a_base_that_the_shapes_contradict_is_not_believed(
    wrong: str, way: str, dwarfs: dict[str, ModelConfig], adapter_on: AdapterOn, row_of: RowOf, tmp_path: Path
) -> None:
    adapter = row_of(made.with_base(adapter_on("mono", way), tmp_path / "a", wrong))
    assert adapter.base_model is None
    assert adapter.base_model_name == wrong
    assert "which its shapes contradict" in adapter.notes[-1]
    assert adapter.judge(dwarfs["mono"]).verdict is Verdict.UNKNOWN_BASE
    # Nor is it where the row names it all the same: how that model is built may have become known later.
    Adapter.objects.filter(pk=adapter.pk).update(base_model=find_base(wrong))
    adapter.refresh_from_db()
    assert not adapter.base_is_believed
    assert adapter.judge(dwarfs["mono"]).verdict is Verdict.UNKNOWN_BASE
    assert set(Adapter.objects.compatible_with(dwarfs["mono"])) == {adapter}


def test_heads_and_embeddings_contradict_a_stereo_base(
    dwarfs: dict[str, ModelConfig], adapter_on: AdapterOn, row_of: RowOf, tmp_path: Path
) -> None:
    adapter = row_of(
        made.with_base(adapter_on("mono", "heads_and_embeddings"), tmp_path / "a", NAMED["stereo"])
    )
    assert adapter.base_model is None
    assert adapter.judge(dwarfs["stereo"]).verdict is Verdict.INCOMPATIBLE
    assert adapter.judge(dwarfs["mono"]).verdict is Verdict.UNKNOWN_BASE


def test_a_fine_tune_of_the_same_architecture_works(
    dwarfs: dict[str, ModelConfig],
    adapter_on: AdapterOn,
    row_of: RowOf,
    tmp_path: Path,
    checkpoint_of: CheckpointOf,
) -> None:
    mono = dwarfs["mono"]
    tuned = ModelConfig.objects.get(pk=mono.pk)
    tuned.pk, tuned.display_name, tuned.hf_model_id = "tuned", "Tuned", "someone/musicgen-jazz"
    tuned._state.adding = True
    tuned.save()
    adapter = row_of(made.with_base(adapter_on("mono"), tmp_path / "a", "someone/musicgen-jazz"))
    assert adapter.judge(tuned).verdict is Verdict.EXACT
    assert adapter.judge(mono) == Judgement(
        Verdict.SAME_ARCHITECTURE,
        "Made for Tuned, which is built the same way",
        required_model_id="tuned",
        required_model_name="Tuned",
    )
    assert adapter.judge(dwarfs["stereo"]).reason == "Requires Tuned"


# --- published models ---


@pytest.mark.parametrize(
    ("base", "model", "is_usable", "reason"),
    [
        ("facebook/musicgen-small", "musicgen-small", True, "Made for MusicGen Small"),
        ("facebook/musicgen-small", "musicgen-stereo-small", False, "Requires MusicGen Small"),
        ("facebook/musicgen-stereo-small", "musicgen-small", False, "Requires MusicGen Stereo Small"),
        ("facebook/musicgen-medium", "musicgen-melody", False, "Requires MusicGen Medium"),
        ("facebook/musicgen-melody", "musicgen-medium", False, "Requires MusicGen Melody"),
        ("facebook/musicgen-medium", "musicgen-large", False, "Requires MusicGen Medium"),
        ("facebook/musicgen-large", "musicgen-small", False, "Requires MusicGen Large"),
    ],
)
def test_published_models_are_told_apart_by_the_catalogue_alone(
    base: str, model: str, is_usable: bool, reason: str, db: None
) -> None:
    """Nothing is installed, and the file tells nothing but that its shapes fit."""
    adapter = Adapter(name="Jazz", base_model=find_base(base))
    verdict = adapter.judge(ModelConfig.objects.get(pk=model))
    assert (verdict.is_usable, verdict.reason) == (is_usable, reason)


# --- the base's name ---


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("facebook/musicgen-small", "musicgen-small"),
        ("Facebook/MusicGen-Small", "musicgen-small"),
        ("facebook/musicgen-small/", "musicgen-small"),
        ("  facebook/musicgen-small  ", "musicgen-small"),
        ("facebook/musicgen-small@main", "musicgen-small"),
        ("musicgen-small", "musicgen-small"),
        ("MusicGen-Small", "musicgen-small"),
        ("musicgen-small/", "musicgen-small"),
        ("https://huggingface.co/facebook/musicgen-stereo-large", "musicgen-stereo-large"),
        ("https://huggingface.co/facebook/musicgen-small/tree/main", "musicgen-small"),
        ("huggingface.co/facebook/musicgen-small", "musicgen-small"),
        ("hf://facebook/musicgen-melody", "musicgen-melody"),
        (
            "/root/.cache/huggingface/hub/models--facebook--musicgen-medium/snapshots/d0e3d1b3b0f7d7b1",
            "musicgen-medium",
        ),
        (
            r"C:\Users\me\.cache\huggingface\hub\models--facebook--musicgen-small\snapshots\4c8334",
            "musicgen-small",
        ),
        ("musicgen-demo", "musicgen-demo"),
        ("", None),
        (" ", None),
        ("/", None),
        ("..", None),
        ("someone/musicgen-small", None),
        ("facebook/musicgen-small-jazz", None),
        ("facebook/musicgen", None),
        ("facebook/opt-350m", None),
        ("/home/someone/musicgen-small", None),
        ("./musicgen-small", None),
        ("../facebook/musicgen-small", None),
        ("~/facebook/musicgen-small", None),
        ("models/facebook/musicgen-small", None),
        (r"C:\models\musicgen-small", None),
        ("musicgen-small\u202e", None),
        ("musicgen-smäll", None),
        ("%", None),
        ("musicgen-sm_ll", None),
    ],
)
def test_a_base_is_found_by_the_names_people_give_it(name: str, found: str | None, db: None) -> None:
    base = find_base(name)
    assert (base.pk if base else None) == found


def test_a_models_own_folder_is_its_name_too(db: None, tmp_path: Path) -> None:
    demo = ModelConfig.objects.get(pk="musicgen-demo")
    assert find_base(demo.checkpoint) == demo
    assert find_base(f"{demo.checkpoint}/") == demo
    assert find_base(str(tmp_path)) is None
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    ModelConfig.objects.filter(pk="musicgen-small").update(local_path=str(link))
    assert find_base(str(link)) == find_base(str(tmp_path)) == ModelConfig.objects.get(pk="musicgen-small")


def test_a_bare_name_that_two_owners_have_is_nobodys(db: None) -> None:
    limits: dict[str, Any] = {
        "max_duration_seconds": 30,
        "recommended_duration_seconds": 10,
        "vram_requirement_gb": 1,
    }
    ModelConfig.objects.create(id="one", display_name="One", hf_model_id="anna/jazz", **limits)
    assert find_base("jazz") == ModelConfig.objects.get(pk="one")
    ModelConfig.objects.create(id="two", display_name="Two", hf_model_id="berta/jazz", **limits)
    assert find_base("jazz") is None


def test_adapters_that_came_before_their_model_are_linked_when_it_is_added(
    adapter_on: AdapterOn, row_of: RowOf, tmp_path: Path, checkpoint_of: CheckpointOf
) -> None:
    early = row_of(made.with_base(adapter_on("mono"), tmp_path / "a", "Someone/Jazz-Base/"))
    other = row_of(made.with_base(adapter_on("mono"), tmp_path / "b", "someone/other"))
    assert early.base_model is None
    model = ModelConfig.objects.create(
        id="jazz-base",
        display_name="Jazz Base",
        hf_model_id="someone/jazz-base",
        max_duration_seconds=30,
        recommended_duration_seconds=10,
        vram_requirement_gb=1,
    )
    early, other = Adapter.objects.get(pk=early.pk), Adapter.objects.get(pk=other.pk)
    assert early.base_model == model
    assert other.base_model is None
    # Saving it again changes nothing that an admin cleared meanwhile.
    Adapter.objects.filter(pk=early.pk).update(base_model=None)
    model.save()
    assert Adapter.objects.get(pk=early.pk).base_model is None


# --- plain facts ---


def model_of(**facts: Any) -> Architecture:
    built: dict[str, Any] = {
        "family": "musicgen",
        "hidden_size": 1024,
        "layers": 24,
        "ffn_dim": 4096,
        "heads": 16,
        "codebooks": 4,
        "channels": 1,
        "text_width": 768,
    }
    return Architecture(**{"model_id": "small", "name": "Small", **built, **facts})


def test_a_broken_adapter_is_broken_for_every_model() -> None:
    facts = AdapterFacts(Fingerprint(), base=model_of(), broken_reason="Its file is gone.")
    verdict = judge(facts, model_of())
    assert (verdict.verdict, verdict.reason, verdict.is_usable) == (
        Verdict.BROKEN,
        "Its file is gone.",
        False,
    )


@pytest.mark.parametrize("field", EQUAL_FIELDS)
def test_every_field_counts_by_the_file_and_by_the_base(field: str) -> None:
    value: Any = "musicgen_melody" if field == "family" else 2
    other = model_of(model_id="other", name="Other", **{field: value})
    by_file = judge(AdapterFacts(Fingerprint(**{field: value})), model_of())
    assert (by_file.verdict, by_file.field) == (Verdict.INCOMPATIBLE, field)
    by_base = judge(AdapterFacts(Fingerprint(), base=other), model_of())
    assert (by_base.verdict, by_base.field, by_base.reason) == (Verdict.INCOMPATIBLE, field, "Requires Other")
    assert judge(AdapterFacts(Fingerprint(), base=other), other).verdict is Verdict.EXACT
    twin = model_of(model_id="twin", name="Twin", **{field: value})
    assert judge(AdapterFacts(Fingerprint(), base=other), twin).verdict is Verdict.SAME_ARCHITECTURE
    assert contradiction(Fingerprint(**{field: value}), model_of()) == field


def test_what_is_not_known_of_a_model_refuses_nothing_and_promises_nothing() -> None:
    unknown = Architecture(model_id="new", name="New")
    assert judge(AdapterFacts(Fingerprint(hidden_size=5)), unknown).verdict is Verdict.UNKNOWN_BASE
    by_base = judge(AdapterFacts(Fingerprint(), base=model_of()), unknown)
    assert by_base.verdict is Verdict.UNKNOWN_BASE
    assert by_base.reason == "Made for Small; how New is built is known once it is installed"
    on_known = judge(AdapterFacts(Fingerprint(), base=unknown), model_of())
    assert on_known.reason == "Made for New; how New is built is known once it is installed"
    assert judge(AdapterFacts(Fingerprint(), base=unknown), unknown).verdict is Verdict.EXACT


def test_reaching_further_than_a_model_is_incompatible_and_less_far_is_not() -> None:
    assert judge(AdapterFacts(Fingerprint(min_layers=24)), model_of()).is_usable
    deeper = judge(AdapterFacts(Fingerprint(min_layers=25)), model_of())
    assert (deeper.field, deeper.reason) == ("min_layers", "Made for at least 25 layers, this model has 24")
    assert judge(AdapterFacts(Fingerprint(min_codebooks=4)), model_of()).is_usable
    assert judge(AdapterFacts(Fingerprint(min_codebooks=5)), model_of()).field == "min_codebooks"


def test_believing_a_base_leaves_its_name_out_of_the_notes(db: None) -> None:
    fits = Fingerprint(hidden_size=1024, layers=24)
    assert believed_base("facebook/musicgen-small", fits) == (
        ModelConfig.objects.get(pk="musicgen-small"),
        [],
    )
    base, notes = believed_base("facebook/musicgen-large", fits)
    assert base is None
    assert notes == [
        "Its config names MusicGen Large as its base model, which its shapes contradict: the name is ignored."
    ]


def test_the_catalogue_is_read_into_architectures(db: None) -> None:
    large = describe_architecture(ModelConfig.objects.get(pk="musicgen-stereo-large"))
    assert large == Architecture(
        model_id="musicgen-stereo-large",
        name="MusicGen Stereo Large",
        hf_model_id="facebook/musicgen-stereo-large",
        family="musicgen",
        hidden_size=2048,
        layers=48,
        ffn_dim=8192,
        heads=32,
        codebooks=8,
        channels=2,
        text_width=768,
    )
