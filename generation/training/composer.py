"""Composes short pieces from a seed: key, chords, bass, melody, drums, tempo, form, in a dozen styles.

Knows nothing of sound. Every onset lies on a codec frame of 20 ms, so that a note sounds the same to the codec wherever
it stands; tempos are the eight whose sixteenth is a whole number of frames."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

FRAMES_PER_SECOND = 50
STEPS_PER_BAR = 16
#: Frames of a sixteenth, one for each of the eight tempos.
SIXTEENTHS = range(5, 13)
TONICS = {"C": 0, "D": 2, "E flat": 3, "F": 5, "G": 7, "A": 9, "B flat": 10}
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
# Scale degrees (0 = tonic) of the chord in each bar.
PROGRESSIONS = {
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 0), (5, 3, 0, 4), (0, 3, 0, 4), (1, 4, 0, 0)),
    "minor": ((0, 5, 2, 6), (0, 3, 4, 0), (0, 6, 5, 6), (0, 5, 3, 4), (0, 0, 3, 4)),
}
# One character a sixteenth: x = hit, o = soft hit, . = rest.
DRUM_PATTERNS: dict[str, dict[str, str]] = {
    "rock": {"kick": "x.......x.x.....", "snare": "....x.......x...", "hat": "x.o.x.o.x.o.x.o."},
    "four on the floor": {
        "kick": "x...x...x...x...",
        "clap": "....x.......x...",
        "open hat": "..x...x...x...x.",
    },
    "hip hop": {"kick": "x..x......x.....", "snare": "....x.......x...", "hat": "x.x.x.x.x.x.x.xx"},
    "funk": {"kick": "x.x...x...x..x..", "snare": "....x..o.o..x...", "hat": "xoxoxoxoxoxoxoxo"},
    "jazz": {"ride": "x...x.x.x...x.x.", "hat": "....x.......x...", "kick": "o.......o......."},
    "march": {"snare": "x..ox.o.x..oxoxo", "kick": "x.......x......."},
    "light": {"shaker": "x.o.x.o.x.o.x.o.", "kick": "x.......x......."},
    "toms": {"tom low": "x..x..x.x..x....", "tom high": "............x.xx", "kick": "x.......x......."},
}
MELODY_RHYTHMS = {
    "sparse": ("x.......x.......", "x...........x...", "x.......x...x...", "x..............."),
    "medium": ("x...x...x...x...", "x.....x.x...x...", "x...x.x.x.......", "x..x..x.x...x..."),
    "busy": ("x.x.x.x.x.x.x.x.", "x.x.x...x.x.x...", "x..x..x.x..x..x.", "x.xxx.x.x.x.x..."),
}


@dataclass(frozen=True)
class Note:
    """One sounding note: `pitch` is a MIDI number (0 for drums, whose name is in `instrument`), times in frames."""

    instrument: str
    pitch: int
    start: int
    length: int
    loudness: float


@dataclass(frozen=True)
class Style:
    """What pieces of one style are made from. An empty tuple means that the style lacks the role."""

    sixteenths: tuple[int, ...]  # frames
    modes: tuple[str, ...]
    melody: tuple[str, ...]
    chords: tuple[str, ...]
    bass: tuple[str, ...]
    drums: tuple[str, ...]
    comping: tuple[str, ...]
    density: tuple[str, ...]
    swing: bool = False
    sevenths: bool = False


BOTH = ("major", "minor")
STYLES: dict[str, Style] = {
    "ambient": Style(
        (10, 11, 12), BOTH, ("bells", "flute"), ("pad", "strings"), (), (), ("held",), ("sparse",)
    ),
    "classical": Style(
        (7, 8, 9, 10, 11),
        BOTH,
        ("piano", "strings", "flute"),
        ("piano", "strings"),
        (),
        (),
        ("arpeggio", "alberti", "held"),
        ("medium", "sparse"),
    ),
    "lullaby": Style(
        (9, 10, 11, 12),
        ("major",),
        ("music box",),
        ("music box", "pad"),
        (),
        (),
        ("arpeggio",),
        ("sparse", "medium"),
    ),
    "folk": Style(
        (6, 7, 8, 9),
        BOTH,
        ("flute", "acoustic guitar"),
        ("acoustic guitar",),
        ("bass",),
        ("light",),
        ("arpeggio", "strum"),
        ("medium",),
    ),
    "pop": Style(
        (6, 7, 8),
        BOTH,
        ("synth lead", "piano", "bells"),
        ("piano", "acoustic guitar", "pad"),
        ("bass",),
        ("rock", "four on the floor"),
        ("quarters", "strum", "held"),
        ("medium", "busy"),
    ),
    "rock": Style(
        (5, 6, 7),
        BOTH,
        ("electric guitar",),
        ("electric guitar",),
        ("bass",),
        ("rock",),
        ("eighths", "held"),
        ("medium",),
    ),
    "lo-fi hip hop": Style(
        (8, 9, 10),
        BOTH,
        ("electric piano", "bells"),
        ("electric piano",),
        ("bass",),
        ("hip hop",),
        ("held", "quarters"),
        ("sparse",),
        swing=True,
        sevenths=True,
    ),
    "jazz": Style(
        (6, 7, 8),
        BOTH,
        ("piano", "electric piano", "flute"),
        ("piano", "electric piano"),
        ("walking bass",),
        ("jazz",),
        ("stabs",),
        ("medium",),
        swing=True,
        sevenths=True,
    ),
    "house": Style(
        (6,),
        ("minor", "major"),
        ("synth lead", "bells"),
        ("pad", "organ", "piano"),
        ("synth bass",),
        ("four on the floor",),
        ("stabs", "held"),
        ("busy", "medium"),
    ),
    "funk": Style(
        (7, 8),
        ("minor",),
        ("electric guitar", "synth lead"),
        ("acoustic guitar", "electric piano"),
        ("synth bass", "bass"),
        ("funk",),
        ("stabs",),
        ("medium",),
    ),
    "hymn": Style(
        (8, 9, 10, 11),
        ("major", "minor"),
        ("organ",),
        ("organ",),
        (),
        (),
        ("quarters", "held"),
        ("medium", "sparse"),
    ),
    "cinematic": Style(
        (8, 9, 10),
        ("minor",),
        ("strings", "flute"),
        ("strings", "pad"),
        ("bass",),
        ("toms",),
        ("held", "eighths"),
        ("sparse",),
    ),
    "march": Style(
        (6, 7),
        ("major",),
        ("flute", "strings"),
        ("organ", "strings"),
        ("bass",),
        ("march",),
        ("quarters",),
        ("medium",),
    ),
}
ARRANGEMENTS = (
    "drums",
    "melody",
    "chords",
    "melody chords",
    "chords drums",
    "bass drums",
    "melody chords bass drums",
    "chords bass drums",
)
ARRANGEMENT_WEIGHTS = (16, 6, 14, 22, 6, 5, 23, 8)


@dataclass(frozen=True)
class Piece:
    """A composed piece and everything a caption may say about it. `roles` maps a role to its instrument."""

    seed: int
    style: str
    tonic: str
    mode: str
    sixteenth: int  # frames
    roles: dict[str, str]
    drum_pattern: str
    comping: str
    frames: int
    notes: tuple[Note, ...]

    @property
    def beats_per_minute(self) -> float:
        """Quarter notes a minute."""
        return 60.0 * FRAMES_PER_SECOND / (4 * self.sixteenth)

    @property
    def has_drums(self) -> bool:
        """Whether a drum kit plays."""
        return "drums" in self.roles


def compose(seed: int, seconds: float = 10.0, **fixed: str) -> Piece:
    """Compose the piece of `seed`. `fixed` may pin `style` and `arrangement` (roles separated by blanks)."""
    rng = random.Random(seed)
    style_name = fixed.get("style") or rng.choice(list(STYLES))
    style = STYLES[style_name]
    available = {role for role in ("melody", "chords", "bass", "drums") if getattr(style, role)}
    arrangement = fixed.get("arrangement") or rng.choices(ARRANGEMENTS, ARRANGEMENT_WEIGHTS)[0]
    wanted = [role for role in arrangement.split() if role in available] or ["melody", "chords"]
    roles = {role: rng.choice(getattr(style, role)) for role in wanted}
    drum_pattern = roles.get("drums", "")
    if drum_pattern:
        roles["drums"] = "drums"
    if "melody" in roles and "chords" in roles and rng.random() < 0.3 and roles["melody"] in style.chords:
        roles["chords"] = roles["melody"]  # one player, two hands
    tonic, mode = rng.choice(list(TONICS)), rng.choice(style.modes)
    sixteenth = rng.choice(style.sixteenths)
    frames = int(seconds * FRAMES_PER_SECOND)
    comping = rng.choice(style.comping)
    writer = _Writer(rng, style, tonic, mode, sixteenth, frames)
    for role, instrument in roles.items():
        if role == "drums":
            writer.drums(drum_pattern)
        elif role == "bass":
            writer.bass(instrument)
        elif role == "chords":
            writer.chords(instrument, comping)
        else:
            writer.melody(instrument, rng.choice(style.density))
    notes = tuple(note for note in writer.notes if note.start < frames)
    return Piece(seed, style_name, tonic, mode, sixteenth, roles, drum_pattern, comping, frames, notes)


class _Writer:
    """Writes the parts of one piece into `notes`."""

    def __init__(
        self, rng: random.Random, style: Style, tonic: str, mode: str, sixteenth: int, frames: int
    ) -> None:
        self.rng, self.style, self.sixteenth = rng, style, sixteenth
        self.tonic, self.scale = TONICS[tonic], SCALES[mode]
        self.progression = rng.choice(PROGRESSIONS[mode])
        # Slow pieces change the chord twice a bar, so that a short take still goes somewhere.
        self.steps_per_chord = STEPS_PER_BAR // 2 if sixteenth >= 9 else STEPS_PER_BAR
        self.bars = -(-frames // (sixteenth * STEPS_PER_BAR))
        self.notes: list[Note] = []

    def at(self, step: int) -> int:
        """First frame of a sixteenth, swung if the style swings."""
        late = self.style.swing and step % 4 == 2
        return step * self.sixteenth + (2 * self.sixteenth // 3 if late else 0)

    def degree(self, step: int) -> int:
        return self.progression[step // self.steps_per_chord % len(self.progression)]

    def pitch(self, degree: int, lowest: int) -> int:
        """MIDI pitch of a scale degree (may exceed one octave), counted from the tonic at or above `lowest`."""
        base = lowest + (self.tonic - lowest) % 12
        return base + 12 * (degree // 7) + self.scale[degree % 7]

    def chord_pitches(self, step: int, lowest: int) -> list[int]:
        """The chord at `step` in close position within the octave above `lowest`."""
        steps = (0, 2, 4, 6) if self.style.sevenths else (0, 2, 4)
        return sorted(lowest + (self.pitch(self.degree(step) + s, 60) - lowest) % 12 for s in steps)

    def add(self, instrument: str, pitch: int, step: int, steps: int, loudness: float) -> None:
        start = self.at(step)
        self.notes.append(Note(instrument, pitch, start, self.at(step + steps) - start, loudness))

    def drums(self, pattern: str) -> None:
        fills = self.rng.random() < 0.5
        for bar in range(self.bars):
            is_fill = fills and bar % 4 == 3
            for drum, hits in DRUM_PATTERNS[pattern].items():
                for step, mark in enumerate(hits):
                    if mark != "." and not (is_fill and step >= 12 and drum != "kick"):
                        self.add(drum, 0, bar * STEPS_PER_BAR + step, 1, 1.0 if mark == "x" else 0.5)
            if is_fill:
                for step, drum in zip(range(12, 16), ("snare", "snare", "tom high", "tom low"), strict=True):
                    self.add(drum, 0, bar * STEPS_PER_BAR + step, 1, 1.0)

    def bass(self, instrument: str) -> None:
        figure = {"walking bass": "x...x...x...x...", "synth bass": "x.x.x.x.x.x.x.x."}.get(
            instrument, self.rng.choice(("x.......x.......", "x.....x.x.....x.", "x...x...x...x..."))
        )
        onsets = [step for step, mark in enumerate(figure) if mark == "x"] + [STEPS_PER_BAR]
        for bar in range(self.bars):
            for index, (onset, following) in enumerate(pairwise(onsets)):
                step = bar * STEPS_PER_BAR + onset
                walk = (0, 2, 4, 2)[index % 4] if instrument == "walking bass" else 0
                pitch = 36 + (self.pitch(self.degree(step) + walk, 36) - 36) % 12
                self.add(instrument.removeprefix("walking "), pitch, step, following - onset, 1.0)

    def chords(self, instrument: str, comping: str) -> None:
        lowest = 52
        for step in range(0, self.bars * STEPS_PER_BAR, self.steps_per_chord):
            pitches, length = self.chord_pitches(step, lowest), self.steps_per_chord
            if comping in ("arpeggio", "alberti"):
                order = (0, 1, 2, 1) if comping == "arpeggio" else (0, 2, 1, 2)
                for index in range(length // 2):
                    self.add(
                        instrument, pitches[order[index % 4]], step + 2 * index, 2 if index % 4 else 4, 0.9
                    )
                continue
            marks = {
                "held": "x" + "." * 15,
                "quarters": "x...x...x...x...",
                "eighths": "x.x.x.x.x.x.x.x.",
                "strum": "x...x.x...x.x.x.",
                "stabs": "..x...x...x...x.",
            }[comping][:length]
            onsets = [index for index, mark in enumerate(marks) if mark == "x"] + [length]
            for onset, following in pairwise(onsets):
                steps = 1 if comping == "stabs" else following - onset
                for pitch in pitches:
                    self.add(instrument, pitch, step + onset, steps, 0.7)

    def melody(self, instrument: str, density: str) -> None:
        """Two one-bar motifs in the form A A B A: rhythm and contour return, pitches follow the chords."""
        motifs = [(self.rng.choice(MELODY_RHYTHMS[density]), self.rng.randrange(10**6)) for _ in range(2)]
        for bar in range(self.bars):
            rhythm, contour_seed = motifs[1 if bar % 4 == 2 else 0]
            contour = random.Random(contour_seed)
            onsets = [step for step, mark in enumerate(rhythm) if mark == "x"] + [STEPS_PER_BAR]
            position = contour.choice((0, 2, 4))
            for onset, following in pairwise(onsets):
                step = bar * STEPS_PER_BAR + onset
                if onset % 8 == 0:  # strong beats take the nearest chord tone
                    targets = [
                        self.degree(step) % 7 + offset - shift for offset in (0, 2, 4) for shift in (0, 7)
                    ]
                    position = min(targets, key=lambda target: (abs(target - position), target))
                else:
                    position += contour.choice((-2, -1, -1, 1, 1, 2))
                position = max(-3, min(8, position))
                self.add(instrument, self.pitch(position, 62), step, following - onset, 1.0)
