"""Calculations, analyses and comparisons: what is said holds when it is done, and nothing is said where nothing holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User

from gated_configs.memory import CARDS, Architecture, Request, describe, estimate, find_card, fit_on
from gated_configs.services import questions
from gated_configs.services.analysis import Analysis, analyse, at_length
from gated_configs.services.calculation import Calculation, calculate, dtype_table, verdict_of
from gated_configs.services.comparison import compare
from gated_configs.services.questions import InvalidQuestion, Machine, Question, length_unit, request_of
from gated_configs.services.recommendations import in_format, recommend
from gated_configs.services.submission import save_config
from tests.memory.conftest import sample_config
from tests.memory.samples import Sample, given_samples

ALL_CARDS = [find_card(name) for name in ("rtx-3050-6gb", "t4", "rtx-4090", "h100", "b300")]


@pytest.fixture
def machine() -> Iterator[None]:
    """This machine: a processor with 16 GB, told as an app above would."""
    reader = questions._machine_reader
    questions.set_machine_reader(lambda: Machine("Test processor", 16 * 10**9, "cpu"))
    yield
    questions.set_machine_reader(reader)


@pytest.fixture
def llama() -> Architecture:
    return describe(sample_config("llama-3-8b"))


def saved(owner: User, name: str) -> str:
    """A given sample as that person's saved config; its id."""
    model_id = f"samples/{name}"
    save_config(owner=owner, model_id=model_id, config=sample_config(name), submitted_by=owner)
    return model_id


def calculated(owner: User, name: str, **asked: Any) -> Calculation:
    return calculate(user=owner, model_id=saved(owner, name), question=Question(**asked))


def codes(architecture: Architecture, request: Request, card: str | None) -> dict[str, str]:
    return {
        each.code: each.sentence
        for each in recommend(architecture, request, find_card(card) if card is not None else None)
    }


# --- advice that holds ---


def said_number(sentence: str) -> float:
    """The first number of a sentence."""
    found = re.search(r"\d[\d,]*(\.\d+)?", sentence)
    assert found is not None
    return float(found[0].replace(",", ""))


@pytest.mark.parametrize("sample", given_samples(), ids=lambda sample: sample.model_id)
def test_every_piece_of_advice_holds_when_it_is_followed(sample: Sample) -> None:
    """On five cards, alone and sixteen at once: what is said to fit fits, and one more does not."""
    architecture = describe(sample.config)
    for card in ALL_CARDS:
        for batch in (1, 16):
            request = request_of(Question(batch_size=batch), architecture)

            def fits(changed: Request, card: Any = card) -> bool:
                return fit_on(architecture, changed, card).fits

            advice = recommend(architecture, request, card)
            verdict = advice[0].code
            assert verdict == (
                "FITS"
                if fits(request)
                else "FITS_BARELY"
                if estimate(architecture, request).total_bytes <= card.memory_bytes
                else "DOES_NOT_FIT"
            )
            for each in advice:
                assert each.sentence.endswith(".")
                follow(each.code, each.sentence, architecture, request, fits)


def follow(code: str, sentence: str, architecture: Architecture, request: Request, fits: Any) -> None:
    """Do what the advice says, and look whether it is so."""
    unit = length_unit(architecture)
    if code in {"LARGER_BATCH", "SMALLER_BATCH"}:
        most = int(said_number(sentence))
        assert fits(request.changed(batch=most))
        assert not fits(request.changed(batch=most + 1))
        assert (most > request.batch) == (code == "LARGER_BATCH")
    elif code in {"LONGER", "SHORTER"}:
        length = said_number(sentence)
        assert fits(at_length(request, length, unit))
        step = 1.0 if unit == "tokens" else 0.1
        if length != architecture.shapes.max_context:
            assert not fits(at_length(request, length + step, unit))
    elif code in {"LOWER_PRECISION", "HIGHER_PRECISION"}:
        weights = re.search(r"(\w+) weights", sentence)
        assert weights is not None
        assert fits(in_format(request, weights[1]))
    elif code == "CACHE_PRECISION" and "would save" not in sentence:
        cache = re.search(r"cache in (\w+)", sentence)
        assert cache is not None
        assert fits(request.changed(cache=cache[1]))
    elif code == "NO_GUIDANCE":
        assert fits(request.changed(guidance=False))
    elif code == "MORE_CARDS":
        found = re.search(r"on (\d+) ×.*?(?:with (\w+) weights)?: ", sentence)
        assert found is not None
        count, weights_name = int(found[1]), found[2] or request.weights
        shared = in_format(request, weights_name)
        assert fits(shared.changed(tensor_parallel=count))
        heads = architecture.shapes.heads
        for fewer in range(1, count):
            assert (heads and heads % fewer) or not fits(shared.changed(tensor_parallel=fewer))
    elif code in {"LARGER_CARD", "SMALLER_CARD", "SMALLEST_CARD"}:
        card = max((card for card in CARDS if card.name in sentence), key=lambda card: len(card.name))
        assert fit_on(architecture, request, card).fits
        smaller = [other for other in CARDS if other.memory_bytes < card.memory_bytes]
        assert not any(fit_on(architecture, request, other).fits for other in smaller)
    elif code == "NO_SINGLE_CARD":
        assert not any(fit_on(architecture, request, other).fits for other in CARDS)


def test_a_model_that_does_not_fit_is_told_what_to_change(llama: Architecture) -> None:
    request = request_of(Question(batch_size=4), llama)
    said = codes(llama, request, "t4")
    assert next(iter(said)) == "DOES_NOT_FIT"
    assert "shorter input" in said["WEIGHTS_TOO_LARGE"]
    assert "int8" in said["LOWER_PRECISION"] or "nf4" in said["LOWER_PRECISION"]
    assert {"MORE_CARDS", "LARGER_CARD"} <= set(said)
    assert "SHORTER" not in said
    small = describe(sample_config("qwen3-0.6b"))
    many = codes(small, request_of(Question(precision="int8", batch_size=16), small), "t4")
    assert {"CACHE_PRECISION", "SHORTER", "SMALLER_BATCH"} <= set(many)
    assert "WEIGHTS_TOO_LARGE" not in many


def test_a_model_that_fits_is_told_how_much_more_would() -> None:
    architecture = describe(sample_config("qwen3-0.6b"))
    said = codes(architecture, request_of(Question(precision="int8"), architecture), "rtx-4090")
    assert {"FITS", "LONGER", "LARGER_BATCH", "HIGHER_PRECISION", "SMALLER_CARD"} <= set(said)


def test_experts_and_shared_caches_are_pointed_out() -> None:
    mixtral, llama = describe(sample_config("mixtral-8x7b")), describe(sample_config("llama-3-8b"))
    assert (
        "12.9 of 46.7 billion"
        in codes(mixtral, request_of(Question(), mixtral), None)["ALL_EXPERTS_IN_MEMORY"]
    )
    sixteen = codes(llama, request_of(Question(tensor_parallel=16), llama), "t4")
    assert "8 cards" in sixteen["CACHE_IS_COPIED"]
    assert "HEADS_NOT_DIVISIBLE" in codes(llama, request_of(Question(tensor_parallel=3), llama), "t4")
    assert "CACHE_IS_COPIED" not in codes(llama, request_of(Question(tensor_parallel=8), llama), "t4")


def test_what_is_shared_out_is_named_with_the_number_of_cards(llama: Architecture) -> None:
    said = codes(llama, request_of(Question(tensor_parallel=2), llama), None)
    assert "2 × " in said["SMALLEST_CARD"]


@pytest.mark.parametrize(
    "name", ["encodec-24khz", "vit-base-patch16-224", "clip-vit-base-patch32", "bert-base-uncased"]
)
@pytest.mark.django_db
def test_nothing_is_said_of_a_cache_that_is_not_there(name: str, owner: User) -> None:
    found = calculated(owner, name, gpu="t4", seq_length=64, duration_seconds=10)
    grid = analyse(user=owner, model_id=found.model_id, question=Question(gpu="t4"))
    words = " ".join([*(each.sentence for each in found.recommendations), *grid.insights])
    assert found.estimate.cache_bytes == 0
    for word in ("outgrows", "Guidance", "key-value", "A cache in", "window", "take", " s fit"):
        assert word not in words
    if found.length_unit is None:
        assert found.longest is None
        assert grid.lengths == (None,)
        assert "tokens" not in words
        assert any("seq_length was left aside" in note for note in found.notes)
    assert any("duration_seconds was left aside" in note for note in found.notes)


@pytest.mark.django_db
def test_a_codec_is_not_quantised_and_has_no_largest_batch(owner: User) -> None:
    found = calculated(owner, "encodec-24khz", gpu="t4", precision="int8")
    assert {row.name for row in found.dtype_table} == {"fp32", "bf16", "fp16"}
    assert found.largest_batch is None
    assert any("no matrices" in note for note in found.notes)


# --- calculations ---


@pytest.mark.django_db
def test_a_calculation_answers_every_question_at_once(owner: User, machine: None) -> None:
    found = calculated(owner, "llama-3-8b", gpu="RTX 4090")
    assert found.card is not None
    assert found.card.slug == "rtx-4090"
    assert found.fit is not None
    assert verdict_of(found.fit) == "comfortable"
    assert found.longest is not None
    assert (found.longest.value, found.longest.is_models_limit) == (8192, True)
    assert found.largest_batch == 3
    assert found.smallest_card is not None
    assert found.smallest_card.card.slug == "rtx-4000-ada"
    assert [row.name for row in found.dtype_table if row.is_chosen] == ["bf16"]
    sizes = [row.weight_bytes for row in found.dtype_table]
    assert sizes == sorted(sizes, reverse=True)
    buffers = found.architecture.parameters.buffers
    assert sizes[0] == 4 * (8_030_261_248 + buffers)
    assert len(found.cards) == len(CARDS) + 1
    assert found.machine is not None
    assert found.machine.card.name == "Test processor"
    assert verdict_of(found.machine) == "not"


@pytest.mark.django_db
def test_without_a_card_the_smallest_that_fits_is_measured_against(owner: User) -> None:
    found = calculated(owner, "llama-3-8b")
    assert found.card is not None
    assert found.smallest_card is not None
    assert found.card == found.smallest_card.card
    huge = calculated(owner, "llama-3.1-405b")
    assert (huge.card, huge.fit, huge.longest, huge.largest_batch) == (None, None, None, None)
    assert [each.code for each in huge.recommendations][:2] == ["NO_SINGLE_CARD", "MORE_CARDS"]


@pytest.mark.django_db
def test_this_machine_is_one_of_the_cards(owner: User, machine: None) -> None:
    found = calculated(owner, "musicgen-small", gpu="this")
    assert found.card is not None
    assert found.card.memory_bytes == 16 * 10**9
    assert found.request.device == "cpu"
    on_card = calculated(owner, "musicgen-small", gpu="t4")
    assert on_card.request.device == "cuda"
    assert found.estimate.overhead_bytes < on_card.estimate.overhead_bytes


def test_where_nobody_can_tell_the_machine_it_cannot_be_chosen() -> None:
    reader = questions._machine_reader
    questions.set_machine_reader(None)
    try:
        with pytest.raises(InvalidQuestion, match="choose a card"):
            questions.card_of(Question(gpu="this"))
        card = questions.card_of(Question(gpu="this", memory_bytes=10**9))
        assert card is not None
        assert card.memory_bytes == 10**9
    finally:
        questions.set_machine_reader(reader)


def test_cache_and_activations_follow_the_weights_unless_they_are_chosen(llama: Architecture) -> None:
    def formats(**asked: Any) -> tuple[str, str, str]:
        request = request_of(Question(**asked), llama)
        return request.weights, request.cache, request.activations

    assert formats() == ("bf16", "bf16", "bf16")
    assert formats(precision="float32") == ("fp32", "fp32", "fp32")
    assert formats(precision="fp16") == ("fp16", "fp16", "fp16")
    assert formats(precision="4bit") == ("int4", "bf16", "bf16")
    assert formats(precision="4bit", cache_precision="int8") == ("int4", "int8", "bf16")
    assert formats(activation_precision="fp32") == ("bf16", "fp32", "fp32")
    assert formats(activation_precision="fp32", cache_precision="fp8") == ("bf16", "fp8", "fp32")


def test_the_table_of_formats_agrees_with_asking_for_each() -> None:
    for name in ("llama-3-8b", "whisper-tiny", "gpt-oss-20b", "musicgen-small"):
        architecture = describe(sample_config(name))
        for row in dtype_table(architecture, request_of(Question(), architecture)):
            asked = request_of(Question(precision=row.name), architecture)
            assert row.weight_bytes == estimate(architecture, asked).weight_bytes


# --- analyses ---


def analysed(owner: User, name: str, **asked: Any) -> Analysis:
    return analyse(user=owner, model_id=saved(owner, name), question=Question(**asked))


@pytest.mark.django_db
@pytest.mark.parametrize(
    "name", ["llama-3-8b", "gemma-2-2b", "jamba-v0.1", "musicgen-small", "bert-base-uncased"]
)
def test_totals_grow_along_both_sides_of_the_grid(name: str, owner: User) -> None:
    grid = analysed(owner, name, gpu="rtx-4090")
    totals = [[cell.total_bytes for cell in row.cells] for row in grid.rows]
    assert all(row == sorted(row) for row in totals)
    assert all(list(column) == sorted(column) for column in zip(*totals, strict=True))
    for row in grid.rows:
        for cell in row.cells:
            fit = fit_on(
                grid.architecture,
                at_length(grid.request.changed(batch=cell.batch_size), cell.length, grid.unit),
                find_card("rtx-4090"),
            )
            assert cell.verdict == verdict_of(fit)


@pytest.mark.django_db
def test_insights_name_where_the_cache_overtakes_the_weights(owner: User) -> None:
    grid = analysed(owner, "qwen3-0.6b")
    sentence = next(each for each in grid.insights if "outgrows" in each and "batch 1 " in each)
    tokens = int(re.findall(r"[\d,]+", sentence)[1].replace(",", ""))
    at, before = (
        estimate(grid.architecture, grid.request.changed(context=length)) for length in (tokens, tokens - 1)
    )
    assert at.cache_bytes > at.weight_bytes
    assert before.cache_bytes <= before.weight_bytes


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gemma-2-2b", "13 layers look at most 4,096 tokens back: at 8,192 tokens that saves"),
        ("jamba-v0.1", "28 recurrent layers keep a state of"),
        ("mamba-130m", "24 recurrent layers keep a state of"),
        ("llama-3-8b", "32 query heads share 8 key-value heads: the cache has 1/4"),
        ("deepseek-v2-lite", "one compressed latent"),
        ("musicgen-small", "Guidance runs every take a second time"),
        ("t5-small", "Cross-attention keeps"),
        ("bert-base-uncased", "It keeps no cache"),
        ("vit-base-patch16-224", "every input has the same size"),
    ],
)
def test_insights_say_what_is_special_about_a_model(name: str, words: str, owner: User) -> None:
    assert any(words in sentence for sentence in analysed(owner, name).insights)


@pytest.mark.django_db
def test_the_longest_of_each_batch_is_the_longest(owner: User) -> None:
    grid = analysed(owner, "llama-3-8b", gpu="rtx-4090")
    sentence = next(each for each in grid.insights if each.startswith("Longest on"))
    assert "batch 1 to 2 all 8,192 tokens" in sentence
    for batch, tokens in re.findall(r"batch (\d+) ([\d,]+) tokens", sentence):
        length = int(tokens.replace(",", ""))
        for count, does in ((length, True), (length + 1, False)):
            asked = grid.request.changed(batch=int(batch), context=count)
            assert fit_on(grid.architecture, asked, find_card("rtx-4090")).fits is does


# --- comparisons ---


@pytest.mark.django_db
def test_a_comparison_keeps_order_and_drops_repeats(owner: User) -> None:
    names = [saved(owner, name) for name in ("gpt2", "bert-base-uncased")]
    found = compare(user=owner, model_ids=[*reversed(names), "", names[0], "no model"], question=Question())
    assert [row.text for row in found.rows] == [*reversed(names), "no model"]
    assert [row.error.code if row.error else None for row in found.rows] == [None, None, "INVALID_MODEL_ID"]


@pytest.mark.django_db
def test_an_error_that_nobody_foresaw_is_not_hidden_in_a_row(
    owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("gated_configs.services.comparison.calculate", broken)
    with pytest.raises(ZeroDivisionError):
        compare(user=owner, model_ids=["gpt2"], question=Question())
