"""Is this text a config.json that can be computed, and if not, why: one sentence for each problem.

Runs in the web process: nothing of torch or transformers is imported and nothing is built.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from gated_configs.memory.bounds import contradictions, range_problems
from gated_configs.memory.computed import is_computed
from gated_configs.memory.errors import InvalidConfig, Problem, UnsupportedArchitecture
from gated_configs.memory.families import family_of, is_known, required_fields, suggestions
from gated_configs.memory.recognition import recognise_json, recognise_text
from gated_configs.memory.remote import mapping_of

MAX_BYTES: Final = 4 * 1024 * 1024
MAX_DEPTH: Final = 32
MAX_KEYS: Final = 150_000
#: Fields of one object beside lists of names: real ones have up to sixty.
MAX_FIELDS: Final = 4096
_MOST_PROBLEMS: Final = 20


@dataclass(frozen=True)
class ValidConfig:
    """A config that passed every check: as it was given, with `model_type` filled in where it could be told."""

    config: dict[str, Any]
    family: str


def read_config(text: str | bytes) -> ValidConfig:
    """A config.json's text, checked.

    Raises InvalidConfig with every problem found, or UnsupportedArchitecture for a family that is known not to
    be computable.
    """
    size = len(text) if isinstance(text, bytes) else len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise _refusal(
            "TOO_LARGE", f"The text has {size:,} bytes; a config.json of up to {MAX_BYTES:,} is read."
        )
    if isinstance(text, bytes):
        text = _decoded(text)
    value = _parsed(text.lstrip("\ufeff"))
    return check_config(value)


def check_config(value: Any) -> ValidConfig:
    """The same for a value that is already parsed."""
    recognised = recognise_json(value)
    if recognised is not None:
        raise InvalidConfig((recognised,))
    _check_extent(value)
    family = family_of(value)
    if family is None:
        raise InvalidConfig(
            (
                Problem(
                    "NO_MODEL_TYPE",
                    "The config names no model_type, and its architectures do not tell which family it is.",
                    "model_type",
                ),
            ),
            required_fields=("model_type",),
            missing_fields=("model_type",),
        )
    config = {**value, "model_type": family}
    if not is_known(family):
        similar = suggestions(family)
        hint = f" Did you mean {' or '.join(repr(name) for name in similar)}?" if similar else ""
        raise UnsupportedArchitecture(
            f"The architecture {family[:80]!r} is not one that this calculator knows, and code from a repository is"
            f" never run to find out.{hint}"
        )
    missing = required_fields(family).missing_from(config)
    if missing:
        names = ", ".join(missing)
        raise InvalidConfig(
            (Problem("MISSING_FIELDS", f"A config of the family {family!r} needs {names}.", missing[0]),),
            required_fields=required_fields(family).names,
            missing_fields=missing,
        )
    computed_from = config
    if not is_computed(config):
        mapping = mapping_of(config)
        computed_from = mapping.config if mapping is not None else config
    problems = tuple(_first_few(_all_problems(computed_from)))
    if problems:
        raise InvalidConfig(problems, required_fields=required_fields(family).names)
    return ValidConfig(config, family)


def _all_problems(config: dict[str, Any]) -> Iterator[Problem]:
    yield from range_problems(config)
    yield from contradictions(config)


def _first_few(problems: Iterator[Problem]) -> Iterator[Problem]:
    for _, problem in zip(range(_MOST_PROBLEMS), problems, strict=False):
        yield problem


def _refusal(code: str, sentence: str) -> InvalidConfig:
    return InvalidConfig((Problem(code, sentence),))


def _decoded(raw: bytes) -> str:
    if raw.startswith(b"GGUF"):
        raise _refusal("GGUF", "This is a GGUF file, not a config.json.")
    if raw.startswith((b"PK\x03\x04", b"\x1f\x8b", b"\x80\x02", b"\x89PNG", b"%PDF")):
        raise _refusal("BINARY", "This is a binary file, not a config.json.")
    for encoding, marks in (("utf-16", (b"\xff\xfe", b"\xfe\xff")),):
        if raw.startswith(marks):
            try:
                return raw.decode(encoding)
            except UnicodeDecodeError:
                break
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _refusal("BINARY", "This is not text in UTF-8, so no config.json.") from None


def _parsed(text: str) -> Any:
    if "\x00" in text:
        raise _refusal("BINARY", "The text holds zero bytes: this is a binary file, not a config.json.")
    recognised = recognise_text(text)
    if recognised is not None and not text.lstrip().startswith(("{", "[")):
        raise InvalidConfig((recognised,))
    twice: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        collected = dict(pairs)
        if len(collected) != len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    twice.append(key)
                seen.add(key)
        return collected

    try:
        value = json.loads(text, object_pairs_hook=collect)
    except RecursionError:
        raise _refusal(
            "TOO_DEEP", f"The text is nested too deeply; up to {MAX_DEPTH} levels are read."
        ) from None
    except json.JSONDecodeError as error:
        if recognised is not None:
            raise InvalidConfig((recognised,)) from None
        raise _refusal("NOT_JSON", _syntax(text, error)) from None
    except ValueError as error:
        raise _refusal("NUMBER_TOO_LONG", f"A number in the text is too long to read: {error}.") from None
    if recognised is not None and not isinstance(value, dict):
        raise InvalidConfig((recognised,))
    if twice:
        names = ", ".join(repr(name[:60]) for name in dict.fromkeys(twice[:5]))
        raise _refusal(
            "DUPLICATE_KEY", f"The text gives {names} more than once; it is not clear which is meant."
        )
    return value


def _syntax(text: str, error: json.JSONDecodeError) -> str:
    where = f"line {error.lineno}, column {error.colno}"
    rest = text[error.pos : error.pos + 1]
    if error.pos >= len(text.rstrip()):
        return f"The JSON ends too early, at {where}: some of it is missing."
    if error.msg.startswith("Extra data"):
        return f"After the object, at {where}, more text follows. Paste one config.json and nothing else."
    if rest in {"}", "]"} or "Illegal trailing comma" in error.msg:
        return f"This is not valid JSON at {where}: a comma before a closing bracket is one too many."
    if rest == "/" or rest == "#":
        return f"This is not valid JSON at {where}: JSON has no comments."
    if rest == "'":
        return f"This is not valid JSON at {where}: JSON has double quotes only."
    return f"This is not valid JSON at {where}: {error.msg[:1].lower()}{error.msg[1:]}."


def _check_extent(value: dict[str, Any]) -> None:
    """Refuse what is too deep or has too many keys, and NaN or Infinity where a size is meant."""
    if len(value) > MAX_FIELDS:
        raise _refusal(
            "TOO_MANY_KEYS", f"The config has {len(value):,} fields; no model's has more than {MAX_FIELDS:,}."
        )
    keys = 0
    stack: list[tuple[Any, int, str]] = [(value, 1, "")]
    while stack:
        item, depth, name = stack.pop()
        if depth > MAX_DEPTH:
            raise _refusal("TOO_DEEP", f"The config is nested more than {MAX_DEPTH} levels deep.")
        keys += len(item)
        if keys > MAX_KEYS:
            raise _refusal("TOO_MANY_KEYS", f"The config has more than {MAX_KEYS:,} entries.")
        members = item.items() if isinstance(item, dict) else ((name, entry) for entry in item)
        for key, entry in members:
            if isinstance(entry, (dict, list)):
                stack.append((entry, depth + 1, key))
            elif isinstance(entry, float) and not math.isfinite(entry) and _is_size(key):
                raise InvalidConfig((Problem("NOT_FINITE", f"{key} is {entry}; it must be a number.", key),))


def _is_size(name: str) -> bool:
    """Whether a field decides about shapes, so that it must be a number that one can count to."""
    return next(range_problems({name: math.inf}), None) is not None


__all__ = ["InvalidConfig", "ValidConfig", "check_config", "read_config"]
