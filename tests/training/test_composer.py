"""The composer: the same piece from the same seed, and nothing outside its ranges."""

from itertools import pairwise

import pytest

from generation.training.composer import SCALES, STYLES, TONICS, compose

SEEDS = range(150)


def test_a_seed_always_gives_the_same_piece() -> None:
    assert [compose(seed) for seed in SEEDS] == [compose(seed) for seed in SEEDS]


def test_seeds_give_different_pieces() -> None:
    pieces = [compose(seed) for seed in SEEDS]
    assert all(one.notes != other.notes for one, other in pairwise(pieces))
    assert {piece.style for piece in pieces} == set(STYLES)
    assert {piece.tonic for piece in pieces} == set(TONICS)


@pytest.mark.parametrize("seconds", [1.0, 10.0, 20.0])
def test_notes_lie_within_the_piece_and_the_ranges(seconds: float) -> None:
    for seed in SEEDS:
        piece = compose(seed, seconds)
        assert piece.frames == seconds * 50
        assert piece.notes
        assert 60 <= piece.beats_per_minute <= 150
        assert piece.sixteenth in STYLES[piece.style].sixteenths
        assert all(0 <= note.start < piece.frames for note in piece.notes)
        assert all(note.length > 0 and 0 < note.loudness <= 1 for note in piece.notes)
        assert all(note.pitch == 0 or 36 <= note.pitch <= 96 for note in piece.notes)


def test_every_note_belongs_to_the_key() -> None:
    for seed in SEEDS:
        piece = compose(seed)
        scale = {(TONICS[piece.tonic] + step) % 12 for step in SCALES[piece.mode]}
        assert {note.pitch % 12 for note in piece.notes if note.pitch} <= scale


def test_notes_are_played_by_the_instruments_of_the_roles() -> None:
    for seed in SEEDS:
        piece = compose(seed)
        pitched = {name.removeprefix("walking ") for role, name in piece.roles.items() if role != "drums"}
        assert {note.instrument for note in piece.notes if note.pitch} == pitched
        assert any(note.pitch == 0 for note in piece.notes) == piece.has_drums


def test_style_and_arrangement_can_be_asked_for() -> None:
    piece = compose(3, style="house", arrangement="bass drums")
    assert piece.style == "house"
    assert set(piece.roles) == {"bass", "drums"}
