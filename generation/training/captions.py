"""Describes composed pieces in varied plain English: instruments, mood, tempo, style, key.

Any of these may be left out, as people do; what is said is true of the piece. Knows nothing of audio."""

from __future__ import annotations

import random

from .composer import Piece

INSTRUMENT_WORDS: dict[str, tuple[str, ...]] = {
    "piano": ("piano", "piano", "grand piano", "soft piano"),
    "electric piano": ("electric piano", "rhodes", "rhodes piano", "e-piano"),
    "acoustic guitar": ("acoustic guitar", "guitar", "plucked guitar", "nylon guitar"),
    "electric guitar": ("electric guitar", "distorted guitar", "overdriven guitar", "rock guitar"),
    "strings": ("strings", "string section", "violins", "string ensemble", "orchestral strings"),
    "flute": ("flute", "wooden flute", "flute"),
    "organ": ("organ", "church organ", "pipe organ"),
    "pad": ("synth pad", "warm pad", "pads", "soft pad"),
    "synth lead": ("synth lead", "synthesizer", "lead synth", "synth"),
    "bells": ("bells", "glockenspiel", "chimes"),
    "music box": ("music box", "music box", "toy music box"),
    "bass": ("bass", "bass guitar", "electric bass"),
    "walking bass": ("walking bass", "upright bass", "double bass"),
    "synth bass": ("synth bass", "bass synth", "bass"),
}
DRUM_WORDS: dict[str, tuple[str, ...]] = {
    "rock": ("drums", "rock drums", "a drum kit", "rock beat"),
    "four on the floor": ("drums", "four on the floor beat", "house beat", "dance beat", "club drums"),
    "hip hop": ("drums", "hip hop beat", "hip hop drums", "laid back beat"),
    "funk": ("drums", "funk drums", "funky beat", "breakbeat"),
    "jazz": ("drums", "jazz drums", "ride cymbal", "swing drums"),
    "march": ("drums", "marching drums", "snare drum", "military drums"),
    "light": ("light percussion", "shaker and kick", "soft drums", "percussion"),
    "toms": ("drums", "big toms", "epic drums", "tom drums", "cinematic percussion"),
}
STYLE_WORDS: dict[str, tuple[str, ...]] = {
    "ambient": ("ambient", "ambient", "new age", "meditation"),
    "classical": ("classical", "classical", "chamber", "romantic"),
    "lullaby": ("lullaby", "lullaby", "nursery", "bedtime"),
    "folk": ("folk", "folk", "acoustic", "country"),
    "pop": ("pop", "pop", "indie pop"),
    "rock": ("rock", "rock", "punk rock", "hard rock"),
    "lo-fi hip hop": ("lo-fi hip hop", "lofi", "chillhop", "lo-fi"),
    "jazz": ("jazz", "jazz", "swing", "bebop"),
    "house": ("house", "techno", "electronic dance", "EDM", "electronic"),
    "funk": ("funk", "funk", "funky", "disco"),
    "hymn": ("hymn", "church", "sacred", "gospel"),
    "cinematic": ("cinematic", "cinematic", "film score", "soundtrack", "epic"),
    "march": ("march", "marching band", "parade"),
}
MOOD_WORDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("fast", "major"): ("happy", "cheerful", "joyful", "playful", "bright", "uplifting", "sunny"),
    ("fast", "minor"): ("dark", "driving", "tense", "intense", "urgent", "dramatic"),
    ("slow", "major"): ("calm", "peaceful", "gentle", "warm", "relaxing", "tender", "hopeful"),
    ("slow", "minor"): ("sad", "melancholic", "moody", "mysterious", "gloomy", "lonely", "emotional"),
}
BEAT_MOODS = {
    "fast": ("energetic", "driving", "powerful", "tight", "lively"),
    "slow": ("laid back", "heavy", "relaxed", "steady"),
}
TEMPO_WORDS = (
    (70, ("very slow", "slow", "slow")),
    (88, ("slow", "relaxed", "slow tempo")),
    (110, ("mid-tempo", "moderate", "medium tempo")),
    (130, ("fast", "upbeat", "lively")),
    (999, ("very fast", "fast", "fast-paced")),
)
NOUNS = ("music", "piece", "tune", "song", "track")
BEAT_NOUNS = (
    "drum beat",
    "beat",
    "drum loop",
    "drum groove",
    "drum solo",
    "drums",
    "drum pattern",
    "percussion groove",
)


def _tempo_word(rng: random.Random, beats_per_minute: float) -> str:
    return rng.choice(next(words for limit, words in TEMPO_WORDS if beats_per_minute <= limit))


def describe(piece: Piece, seed: int) -> str:
    """One caption of `piece`; another `seed` words it otherwise."""
    rng = random.Random(seed * 1_000_003 + piece.seed)
    pace = "fast" if piece.beats_per_minute > 88 else "slow"
    only_drums = set(piece.roles) == {"drums"}
    moods = BEAT_MOODS[pace] if only_drums else MOOD_WORDS[pace, piece.mode]
    style = rng.choice(STYLE_WORDS[piece.style]) if rng.random() < 0.6 else ""
    mood = rng.choice(moods) if rng.random() < 0.55 else ""
    tempo = _tempo_word(rng, piece.beats_per_minute) if rng.random() < 0.5 else ""
    bpm = round(piece.beats_per_minute) + rng.choice((-2, -1, 0, 0, 0, 0, 1, 2))
    if rng.random() < 0.3:
        bpm = 5 * round(piece.beats_per_minute / 5)
    # Numbers and keys are said far more often than people do: they are the hardest words to learn.
    tempo_mark = (
        rng.choice((f"{bpm} bpm", f"at {bpm} bpm", f"at {bpm} bpm", f"around {bpm} bpm"))
        if rng.random() < 0.6
        else ""
    )
    key = f"{piece.tonic} {piece.mode}"
    key = (
        rng.choice((f"in {key}", f"in the key of {key}", key))
        if rng.random() < 0.5 and not only_drums
        else ""
    )
    names = dict.fromkeys(name for role, name in piece.roles.items() if role != "drums")
    instruments = [rng.choice(INSTRUMENT_WORDS[name]) for name in names]
    if piece.has_drums and not only_drums:
        instruments.append(rng.choice(DRUM_WORDS[piece.drum_pattern]))
    if len(instruments) > 1 and style and rng.random() < 0.15:
        instruments = []  # the style alone
    absent = "" if piece.has_drums or rng.random() > 0.15 else rng.choice(("no drums", "without drums"))
    if only_drums:
        noun = rng.choice(BEAT_NOUNS + DRUM_WORDS[piece.drum_pattern])
    elif len(instruments) == 1 and rng.random() < 0.7:
        solo = rng.choice(("solo ", "", "", "")) + instruments[0]
        noun = rng.choice((solo, f"{solo} {rng.choice(NOUNS)}", f"{solo} solo"))
        instruments = []
    else:
        noun = rng.choice(NOUNS)
    if rng.random() < 0.3:
        return _tags(
            rng,
            [style, mood, tempo, tempo_mark, key, absent, *instruments, noun if noun not in NOUNS else ""],
            noun,
        )
    front = [word for word in (tempo, mood, style) if word and word not in noun]
    rng.shuffle(front)
    text = " ".join([*front, noun])
    if instruments:
        text += rng.choice((" with ", " with ", " featuring ", " played by ", " for ")) + _listing(
            instruments
        )
    tail = [part for part in (tempo_mark, key, absent) if part]
    rng.shuffle(tail)
    text += "".join(rng.choice((" ", ", ")) + part for part in tail)
    article = rng.choice(("a ", "a ", "", "", "", "play a ", "some " if noun == "music" else ""))
    text = (
        ("an " if text[0] in "aeiou" and article == "a " else article)
        if noun != "music" or article == "some "
        else ""
    ) + text
    return text[0].upper() + text[1:] + rng.choice((".", "")) if rng.random() < 0.4 else text


def _listing(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def _tags(rng: random.Random, tags: list[str], fallback: str) -> str:
    tags = [tag.removeprefix("in ").removeprefix("at ") for tag in dict.fromkeys(tags) if tag]
    rng.shuffle(tags)
    return ", ".join(tags) or fallback
