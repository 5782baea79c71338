"""Captions: what they say is true of the piece, and over many wordings all of it is said."""

import re

from generation.training.captions import DRUM_WORDS, INSTRUMENT_WORDS, STYLE_WORDS, describe
from generation.training.composer import Piece, compose

PIECES = [compose(seed, 4.0) for seed in range(120)]
WORDINGS = range(12)


def words_true_of(piece: Piece) -> str:
    """Every name that a caption may give to what plays in `piece`."""
    names = [name for role, name in piece.roles.items() if role != "drums"]
    words = [word for name in names for word in INSTRUMENT_WORDS[name]]
    words += STYLE_WORDS[piece.style]
    if piece.has_drums:
        words += [*DRUM_WORDS[piece.drum_pattern], "drum beat", "drum groove", "drums"]
    return " | ".join(words).lower()


def test_a_wording_is_always_the_same() -> None:
    assert [describe(piece, 1) for piece in PIECES] == [describe(piece, 1) for piece in PIECES]


def test_captions_are_varied() -> None:
    assert len({describe(PIECES[0], wording) for wording in range(50)}) > 25


def test_no_caption_names_an_instrument_that_does_not_play() -> None:
    for piece in PIECES:
        true = words_true_of(piece)
        for caption in (describe(piece, wording).lower() for wording in WORDINGS):
            for word in (word for words in INSTRUMENT_WORDS.values() for word in words):
                if re.search(rf"\b{re.escape(word)}\b", caption):
                    assert word in true, caption


def test_captions_name_every_instrument_sooner_or_later() -> None:
    for piece in PIECES:
        captions = " / ".join(describe(piece, wording).lower() for wording in range(40))
        for role, name in piece.roles.items():
            words = DRUM_WORDS[piece.drum_pattern] if role == "drums" else INSTRUMENT_WORDS[name]
            assert any(word in captions for word in words), (piece.roles, captions)


def test_key_tempo_and_missing_drums_are_told_truly() -> None:
    keys = tempos = absences = 0
    for piece in PIECES:
        for caption in (describe(piece, wording) for wording in WORDINGS):
            if key := re.search(r"\b([A-G](?: flat)?) (major|minor)\b", caption):
                keys += 1
                assert key.groups() == (piece.tonic, piece.mode)
            if tempo := re.search(r"(\d+) bpm", caption):
                tempos += 1
                assert abs(int(tempo[1]) - piece.beats_per_minute) <= 2.6
            if re.search(r"\b(no|without) drums\b", caption.lower()):
                absences += 1
                assert not piece.has_drums
    assert min(keys, tempos, absences) > 20
