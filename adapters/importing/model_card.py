"""What a README tells of an adapter, and a name for it where nobody gave one.

A README is text by anybody: what is read is short, plain and never followed.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adapters.importing.contents import README_HEAD_BYTES

MAX_DESCRIPTION_CHARACTERS: Final = 1000
MAX_NAME_CHARACTERS: Final = 120
_MAX_VALUE_CHARACTERS: Final = 200

_FRONT = re.compile(r"\A\ufeff?---\s*\n(.*?)\n---\s*(\n|\Z)", re.DOTALL)
#: Lines of a text that are no prose: headings, tables, lists, quotes, code, pictures, markup.
_NOT_PROSE = re.compile(r"\s*(#|\||[-*+]\s|>|```|~~~|!\[|<|\[!|=+\s*$|-+\s*$|:::)")
#: What the hub's template for cards says of every model; peft fills one in beside each adapter.
_PLACEHOLDER = re.compile(
    r"more information needed|provide a (quick|longer) summary|use the code below to get started"
    r"|made aware of the risks, biases and limitations|carbon emissions can be estimated"
    r"|this is the model card of a|^\s*\**(bibtex|apa):?\**:?\s*$",
    re.IGNORECASE,
)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_MARKS = re.compile(r"[*_`]{1,3}(\S.*?\S|\S)[*_`]{1,3}")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


@dataclass(frozen=True)
class ModelCard:
    """What a README says; empty where it does not."""

    base_model: str = ""
    description: str = ""
    trigger_words: str = ""


def read_card(path: Path | None) -> ModelCard:
    """Read the head of a README. One that is not text tells nothing."""
    if path is None:
        return ModelCard()
    with path.open("rb") as file:
        text = file.read(README_HEAD_BYTES).decode("utf-8", errors="ignore").replace("\r\n", "\n")
    front = _FRONT.match(text)
    facts = front[1] if front else ""
    body = text[front.end() :] if front else text
    return ModelCard(
        base_model=_value(facts, "base_model"),
        description=_first_paragraph(body),
        trigger_words=_value(facts, "instance_prompt"),
    )


def tidy_name(text: str) -> str:
    """A name for people from that of a folder, a zip or a repository: "my_jazz-adapter" becomes "My Jazz Adapter"."""
    words = plain_line(re.sub(r"[\s_\-]+", " ", text)).split()
    tidy = " ".join(word[0].upper() + word[1:] if word.islower() else word for word in words)
    return tidy[:MAX_NAME_CHARACTERS].strip() or "Adapter"


def plain_line(text: str) -> str:
    """A text on one line, without characters that cannot be seen."""
    kept = (
        " " if character in "\t\n\r" else character
        for character in text
        if character in "\t\n\r"
        or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    )
    return " ".join("".join(kept).split())


def _value(facts: str, key: str) -> str:
    """A key of the front matter: a plain or quoted text, or the first item of a list."""
    found = re.search(rf"^{key}:[ \t]*(.*)$", facts, re.MULTILINE)
    if found is None:
        return ""
    value = found[1].strip()
    if not value:
        item = re.match(r"\n\s*-[ \t]+(.*)", facts[found.end() :])
        value = item[1].strip() if item else ""
    elif value.startswith("["):
        value = value.strip("[]").split(",")[0].strip()
    value = value.split(" #")[0].strip()
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return "" if value.lower() in ("null", "~", "none") else plain_line(value)[:_MAX_VALUE_CHARACTERS]


def _first_paragraph(body: str) -> str:
    paragraph: list[str] = []
    for line in _COMMENT.sub("", body).split("\n"):
        is_prose = bool(line.strip()) and not _NOT_PROSE.match(line) and not _PLACEHOLDER.search(line)
        if is_prose:
            paragraph.append(line.strip())
        elif paragraph:
            break
    text = _MARKS.sub(r"\1", _LINK.sub(r"\1", " ".join(paragraph)))
    text = plain_line(text)
    return text if len(text) <= MAX_DESCRIPTION_CHARACTERS else f"{text[: MAX_DESCRIPTION_CHARACTERS - 3]}..."
