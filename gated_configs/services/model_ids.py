"""What people type for a model, made into an id of the hub: "owner/name", or a bare name such as gpt2.

An id that passes here holds nothing that could lead a request to another host or path.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from gated_configs.hub import DownloadFailed, hub_of
from gated_configs.services.builtin import canonical_builtin_id

#: Longer texts are no address of a model.
MAX_CHARACTERS: Final = 2048
MAX_PART_CHARACTERS: Final = 96
DEFAULT_HUB: Final = "https://huggingface.co"

_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")
_HOSTS: Final = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
#: Pages of a model: what stands behind its id in an address.
_PAGES: Final = frozenset(
    {"tree", "blob", "resolve", "raw", "edit", "commit", "commits", "discussions", "settings", "blame"}
)
_WITH_REVISION: Final = frozenset({"tree", "blob", "resolve", "raw", "blame", "commits"})
_OTHER_KINDS: Final = {
    "datasets": "a dataset",
    "spaces": "a space",
    "papers": "a paper",
    "collections": "a collection",
}
#: First parts of addresses that are the hub's own pages.
_NOT_OWNERS: Final = frozenset(
    {"api", "docs", "models", "login", "join", "settings", "blog", "organizations"}
)
_DEFAULT_REVISION: Final = "main"
_EXAMPLE: Final = "Write it as owner/name, such as facebook/musicgen-small, or paste the address of its page."


class InvalidModelId(ValueError):
    """The text names no model. `str()` is the sentence for people."""

    code = "INVALID_MODEL_ID"


def normalised_id(text: str) -> str:
    """The id that an id or an address means; its revision must be main. Raises InvalidModelId."""
    text = text.strip()
    if not text:
        raise InvalidModelId(f"No model is named. {_EXAMPLE}")
    if len(text) > MAX_CHARACTERS:
        raise InvalidModelId(f"This is too long to be a model. {_EXAMPLE}")
    if not text.isascii() or not text.isprintable() or "\\" in text or " " in text:
        raise InvalidModelId(f"This holds characters that no model's name has. {_EXAMPLE}")
    is_address, path = _path_of(text)
    parts = path.removesuffix("/").split("/")
    if parts[0].lower() in _OTHER_KINDS and (is_address or len(parts) > 1):
        kind = _OTHER_KINDS[parts[0].lower()]
        raise InvalidModelId(f"This is the address of {kind}, not of a model. {_EXAMPLE}")
    if parts[:2] == ["api", "models"] and len(parts) > 2:
        parts = parts[2:]
    names = _names(parts, is_address=is_address)
    model_id = "/".join(names)
    return canonical_builtin_id(model_id) or model_id


def hub_page(model_id: str) -> str:
    """Address of the model's page on the hub in use."""
    try:
        return f"{hub_of(token='').address}/{model_id}"
    except DownloadFailed:
        return f"{DEFAULT_HUB}/{model_id}"


def _path_of(text: str) -> tuple[bool, str]:
    """Whether the text is an address of a hub that we know, and its path there; else the text itself."""
    scheme, separator, _ = text.partition("://")
    if separator:
        if scheme.lower() not in ("http", "https"):
            raise InvalidModelId(f"This is not the address of a model's page. {_EXAMPLE}")
        path = _hub_path(text)
        if path is None:
            raise InvalidModelId(f"This address is not one of the model hub. {_EXAMPLE}")
        return True, path
    # Without a scheme only what we know to be a hub is an address: owners may have dots in their names.
    path = _hub_path(f"//{text}")
    return (False, text.partition("?")[0].partition("#")[0]) if path is None else (True, path)


def _hub_path(address: str) -> str | None:
    """The path below the hub's root, or None for an address of another server."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return None
    if "@" in parts.netloc or not parts.hostname:
        return None
    path = parts.path.removeprefix("/")
    if parts.hostname in _HOSTS and port in (None, 80, 443):
        return path
    try:
        endpoint = urlsplit(hub_of(token="").endpoint)
    except DownloadFailed:
        return None
    default = 80 if endpoint.scheme == "http" else 443
    if parts.hostname != endpoint.hostname or (port or default) != (endpoint.port or default):
        return None
    prefix = endpoint.path.strip("/")
    if prefix:
        return path.removeprefix(f"{prefix}/") if path.startswith(f"{prefix}/") else None
    return path


def _names(parts: list[str], *, is_address: bool) -> list[str]:
    """One or two parts that can be a model's id; what follows them in an address must be a page of it."""
    count = 1 if len(parts) == 1 or (parts[1] in _PAGES and (is_address or len(parts) > 2)) else 2
    names, page = parts[:count], parts[count:]
    if names[0].lower() in _NOT_OWNERS:
        raise InvalidModelId(f"This is a page of the hub, not a model. {_EXAMPLE}")
    for name in names:
        _check_name(name)
    if page and page[0] not in _PAGES:
        raise InvalidModelId(f"This is not the id of a model. {_EXAMPLE}")
    if len(page) > 1 and page[0] in _WITH_REVISION and page[1] != _DEFAULT_REVISION:
        raise InvalidModelId(
            f"This address names the revision {page[1][:80]!r}, and only {_DEFAULT_REVISION} is looked up."
            f" Write {'/'.join(names)} for that one."
        )
    return names


def _check_name(name: str) -> None:
    if len(name) > MAX_PART_CHARACTERS:
        raise InvalidModelId(f"A name in it is longer than {MAX_PART_CHARACTERS} characters. {_EXAMPLE}")
    if not _PART.fullmatch(name) or ".." in name or "--" in name or name.endswith(".git"):
        raise InvalidModelId(f"This is not the id of a model. {_EXAMPLE}")
