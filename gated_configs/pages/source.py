"""Where a config is from, in a line, and what its owner can do with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gated_configs.pages.asked import Asked
from gated_configs.services.curation import version_differences
from gated_configs.services.lookup import FoundConfig, Person, Source, has_config

#: What one version changed is usually a field or two; more would be another model.
MAX_CHANGES: Final = 20

_ICONS: Final = {
    Source.OWN: "i-person",
    Source.SHARED: "i-check",
    Source.BUILTIN: "i-mark",
    Source.HUB: "i-download",
}


@dataclass(frozen=True)
class SourceLine:
    """One line under a result. `hidden` are the fields that bring the person back to it."""

    kind: str
    icon: str
    sentence: str
    is_own: bool
    replace_address: str
    replace_words: str
    hidden: list[tuple[str, str]]
    version: int | None
    changes: tuple[str, ...]


def source_line(found: FoundConfig, asked: Asked, user: Person) -> SourceLine:
    """The line of a config that was found."""
    is_own = found.source is Source.OWN
    return SourceLine(
        kind=str(found.source),
        icon=_ICONS[found.source],
        sentence=f"{found.source_sentence}.",
        is_own=is_own,
        replace_address=asked.changed(panel=found.model_id).address,
        replace_words="Replace it" if is_own else "Use another config",
        hidden=[*asked.pairs, ("config_for", found.model_id)],
        version=found.version,
        changes=_changes(found, user) if is_own else (),
    )


def _changes(found: FoundConfig, user: Person) -> tuple[str, ...]:
    if not found.version or found.version < 2:
        return ()
    saved = has_config(user=user, model_id=found.model_id)
    if saved is None:
        return ()
    changed = version_differences(saved.version)
    lines = tuple(str(line) for line in changed.lines[:MAX_CHANGES])
    is_whole = changed.is_complete and len(changed.lines) <= MAX_CHANGES
    return lines if is_whole else (*lines, "And more.")
