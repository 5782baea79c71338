"""Asks the hub for a model's config.json, and keeps the answer with its commit until it expires.

An expired answer is asked for again, and used all the same while the hub cannot be reached.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from django.db import IntegrityError, transaction
from django.utils import timezone

from gated_configs.hub import (
    Answer,
    DownloadCancelled,
    DownloadFailed,
    Hub,
    Interrupted,
    check_answer,
    hub_of,
    with_retries,
)
from gated_configs.hub.errors import HUB_ERROR, HUB_UNREACHABLE, NOT_A_HUB, RATE_LIMITED
from gated_configs.memory.validation import MAX_BYTES
from gated_configs.models import HubConfig
from gated_configs.models.hub_config import MAX_ENDPOINT_CHARACTERS

logger = logging.getLogger(__name__)

#: How long an answer is used without asking again.
KEPT_FOR: Final = timedelta(days=1)
#: Answers that are kept at most; the oldest go first.
MAX_KEPT: Final = 1000
#: A whole look-up, with its second try and every redirect, takes no longer.
LOOKUP_SECONDS: float = 10.0
PAUSES_SECONDS: tuple[float, ...] = (0.3,)
#: A hub that let us wait in vain is not asked again for so long: ten models would take ten times as long.
SILENCE_SECONDS: float = 20.0

NO_CONFIG: Final = "NO_CONFIG"
CONFIG_UNREADABLE: Final = "CONFIG_UNREADABLE"

_FILE: Final = "config.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")
#: Failures that say nothing of the model: what was known before still holds.
_PASSING: Final = frozenset({HUB_UNREACHABLE, HUB_ERROR, NOT_A_HUB, RATE_LIMITED})

_silent_until: dict[str, float] = {}


@dataclass(frozen=True)
class HubAnswer:
    """A config of the hub, and why it is an expired one where it is."""

    row: HubConfig
    expired_because: DownloadFailed | None = None


def hub_config(model_id: str, *, may_ask: Callable[[], None] = lambda: None) -> HubAnswer:
    """The config.json of a model: kept, or fetched now with the server's token.

    `may_ask` is called before the hub is asked, and may raise. Raises DownloadFailed.
    """
    hub = hub_of()
    kept = _kept(hub, model_id)
    if kept is not None and kept.expires_at > timezone.now():
        return HubAnswer(kept)
    may_ask()
    try:
        commit, content = _fetch(hub, model_id)
    except DownloadFailed as failure:
        if kept is not None and failure.error_code in _PASSING:
            logger.info("An expired config of %s is used: %s", model_id, failure)
            return HubAnswer(kept, failure)
        raise
    return HubAnswer(_keep(hub, model_id, commit, content))


def canonical_json(config: dict[str, Any]) -> str:
    """One text for equal configs, in ASCII so that every database can hold it."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"))


def content_hash(content: str) -> str:
    """The name of a canonical text."""
    return hashlib.sha256(content.encode()).hexdigest()


def _endpoint(hub: Hub) -> str:
    return hub.address[:MAX_ENDPOINT_CHARACTERS]


def _kept(hub: Hub, model_id: str) -> HubConfig | None:
    return HubConfig.objects.filter(endpoint=_endpoint(hub), model_id__iexact=model_id).first()


def _keep(hub: Hub, model_id: str, commit: str, content: str) -> HubConfig:
    now = timezone.now()
    values = {
        "commit": commit,
        "content": content,
        "sha256": content_hash(content),
        "fetched_at": now,
        "expires_at": now + KEPT_FOR,
    }
    kept = _kept(hub, model_id)
    if kept is None:
        try:
            with transaction.atomic():
                kept = HubConfig.objects.create(endpoint=_endpoint(hub), model_id=model_id, **values)
        except IntegrityError:  # another request was first; both asked just now
            kept = _kept(hub, model_id)
            assert kept is not None
        _drop_oldest()
        return kept
    for name, value in values.items():
        setattr(kept, name, value)
    kept.save(update_fields=list(values))
    return kept


def _drop_oldest() -> None:
    beyond = HubConfig.objects.order_by("-fetched_at", "-pk").values_list("pk", flat=True)[
        MAX_KEPT : 2 * MAX_KEPT
    ]
    # Evaluated first: a slice cannot be deleted from.
    HubConfig.objects.filter(pk__in=list(beyond)).delete()


def _fetch(hub: Hub, model_id: str) -> tuple[str, str]:
    """Commit and canonical text of the model's config.json. Raises DownloadFailed within LOOKUP_SECONDS."""
    silence = _silent_until.get(hub.endpoint, 0.0)
    if time.monotonic() < silence:
        raise _no_answer(hub)
    deadline = time.monotonic() + LOOKUP_SECONDS
    try:
        commit, body = with_retries(
            lambda: _ask(hub, model_id, lambda: time.monotonic() > deadline),
            should_stop=lambda: time.monotonic() > deadline,
            pauses_seconds=PAUSES_SECONDS,
        )
    except DownloadCancelled:
        _silent_until[hub.endpoint] = time.monotonic() + SILENCE_SECONDS
        raise _no_answer(hub) from None
    return commit, _read(body, model_id)


def _no_answer(hub: Hub) -> DownloadFailed:
    return DownloadFailed(HUB_UNREACHABLE, f"The hub at {hub.address} does not answer in time.")


def _ask(hub: Hub, model_id: str, should_stop: Callable[[], bool]) -> tuple[str, bytes]:
    path = f"/{model_id}/resolve/main/{_FILE}"
    with closing(Answer(hub, path, should_stop=should_stop)) as answer:
        head = answer.head
        if head.status == 404 and head.headers.get("x-error-code") == "EntryNotFound":
            raise DownloadFailed(NO_CONFIG, f"{model_id} has no {_FILE} on the hub.")
        try:
            check_answer(head, hub, repo_id=model_id, revision="main")
        except Interrupted as failure:
            if failure.error_code == RATE_LIMITED:  # whoever waits is told when, rather than kept waiting
                raise HubIsBusy(failure, _seconds(head.headers.get("retry-after"))) from failure
            raise
        except DownloadFailed as failure:
            if failure.error_code == RATE_LIMITED:
                raise HubIsBusy(failure, _seconds(head.headers.get("retry-after"))) from failure
            raise
        body = bytearray()
        for chunk in answer.chunks():
            body += chunk
            if len(body) > MAX_BYTES:
                raise _unreadable(model_id, f"is larger than {MAX_BYTES:,} bytes")
    return (head.commit if _COMMIT.fullmatch(head.commit) else ""), bytes(body)


class HubIsBusy(DownloadFailed):
    """The hub takes no more requests; `retry_after_seconds` where it said for how long."""

    def __init__(self, failure: DownloadFailed, retry_after_seconds: int | None) -> None:
        super().__init__(failure.error_code, str(failure), failure.detail)
        self.retry_after_seconds = retry_after_seconds


def _seconds(told: str | None) -> int | None:
    told = (told or "").strip()
    return int(told) if told.isascii() and told.isdigit() and len(told) < 8 else None


def _read(body: bytes, model_id: str) -> str:
    try:
        config = json.loads(body)
    except RecursionError:
        raise _unreadable(model_id, "is nested too deeply") from None
    except ValueError:
        raise _unreadable(model_id, "is not valid JSON") from None
    if not isinstance(config, dict):
        raise _unreadable(model_id, "is not a JSON object")
    try:
        return canonical_json(config)
    except (RecursionError, ValueError):  # a number of more digits than can be written
        raise _unreadable(model_id, "cannot be read") from None


def _unreadable(model_id: str, why: str) -> DownloadFailed:
    return DownloadFailed(CONFIG_UNREADABLE, f"The {_FILE} of {model_id} on the hub {why}.")


__all__ = ["HubAnswer", "HubIsBusy", "canonical_json", "content_hash", "hub_config"]
