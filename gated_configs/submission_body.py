"""Reads a submission's body without losing anything: the config comes out as the text that it was sent as.

A parsed object has forgotten its duplicate keys, so what checks a pasted text checks the text of the object too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest

from gated_configs.memory import read_config
from gated_configs.refusals import Refusal
from gated_configs.submission_bounds import MAX_BODY_BYTES, TOO_LARGE

_SPACE: Final = re.compile(r"[ \t\r\n]*")
_EXAMPLE: Final = (
    'Send {"model_uri": "owner/name", "config": {...}}, with the config as an object or as a text.'
)


class SubmissionUnreadable(Exception):
    """The request is no submission, whatever its config is; `refusal` says why."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.sentence)
        self.refusal = refusal


@dataclass(frozen=True)
class Submission:
    """The model as it was named, and the config's own text."""

    model_uri: str
    config_text: str


def read_submission(request: HttpRequest) -> Submission:
    """The submission in a request's body. Raises SubmissionUnreadable, or InvalidConfig for what is too deep."""
    members = _members(_text_of(request))
    missing = [name for name in ("model_uri", "config") if name not in members]
    if missing:
        errors = {name: f"{name} is missing." for name in missing}
        raise _unreadable(f"{' and '.join(missing)} missing. {_EXAMPLE}", errors)
    model_uri, config = members["model_uri"][0], members["config"]
    if not isinstance(model_uri, str):
        sentence = "model_uri is a text: owner/name, or the address of the model's page."
        raise _unreadable(sentence, {"model_uri": sentence})
    value, source = config
    return Submission(model_uri, value if isinstance(value, str) else source)


def _text_of(request: HttpRequest) -> str:
    try:
        body = request.body
    except RequestDataTooBig:
        body = b""
        size = MAX_BODY_BYTES + 1
    else:
        size = len(body)
    if size > MAX_BODY_BYTES:
        raise SubmissionUnreadable(Refusal(413, TOO_LARGE, "REQUEST_TOO_LARGE"))
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _unreadable(f"The request is not text in UTF-8. {_EXAMPLE}") from None


def _members(text: str) -> dict[str, tuple[Any, str]]:
    """The members of the outermost object: each value, and the text that it was read from."""
    members: dict[str, tuple[Any, str]] = {}
    try:
        for name, value, source in _scan(text):
            if name in members and name in {"model_uri", "config"}:
                sentence = f"The request gives {name} more than once."
                raise _unreadable(sentence, {name: sentence})
            members[name] = (value, source)
    except json.JSONDecodeError as error:
        sentence = f"The request is not JSON at line {error.lineno}, column {error.colno}. {_EXAMPLE}"
        raise _unreadable(sentence) from None
    return members


def _scan(text: str) -> Iterator[tuple[str, Any, str]]:
    decoder = json.JSONDecoder()
    position = _expect(text, 0, "{")
    if text[position : position + 1] == "}":
        return
    while True:
        if text[position : position + 1] != '"':
            raise json.JSONDecodeError("Expecting a name", text, position)
        name, position = decoder.raw_decode(text, position)
        start = _expect(text, position, ":")
        try:
            value, end = decoder.raw_decode(text, start)
        except json.JSONDecodeError:
            raise
        except (RecursionError, ValueError):
            # Too deep, or a number too long: the config's own check says which, and why that is no good.
            if name == "config":
                read_config(text[start:])
            raise json.JSONDecodeError("Too deep or too long", text, start) from None
        yield name, value, text[start:end]
        position = _space(text, end)
        if text[position : position + 1] == "}":
            break
        position = _expect(text, position, ",")
    if text[position + 1 :].strip(" \t\r\n"):
        raise json.JSONDecodeError("Extra data", text, position + 1)


def _expect(text: str, position: int, character: str) -> int:
    """Where the next thing begins after that character."""
    position = _space(text, position)
    if text[position : position + 1] != character:
        raise json.JSONDecodeError(f"Expecting {character!r}", text, position)
    return _space(text, position + 1)


def _space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found is not None else position


def _unreadable(sentence: str, errors: dict[str, str] | None = None) -> SubmissionUnreadable:
    facts = {"errors": errors} if errors is not None else {}
    return SubmissionUnreadable(Refusal(400, sentence, "INVALID_REQUEST", facts))
