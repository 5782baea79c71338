"""Takes in a config that somebody pasted: counted, checked, computed once, and saved as a version.

A paste equal to the newest version makes no new one. What one person saves changes nothing for another.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import Sum
from django.utils import timezone

from gated_configs.memory import (
    Architecture,
    InvalidConfig,
    LimitExceeded,
    Problem,
    ValidConfig,
    check_config,
    read_config,
    shared_calculator,
)
from gated_configs.memory.validation import MAX_BYTES
from gated_configs.models import ConfigVersion, UserModelConfig
from gated_configs.services.hub_configs import canonical_json, content_hash
from gated_configs.services.rate_limits import Allowance, TooManyRequests, spend
from gated_configs.wording import spoken_bytes

#: What all versions of one person may take, so that nobody fills the disk a paste at a time.
MAX_SAVED_BYTES: int = 200 * 10**6
MAX_COUNT: Final = 2**63 - 1
_TRIES: Final = 5


class TooManySubmissions(TooManyRequests):
    """A person or an address submits configs too often."""

    code = "TOO_MANY_SUBMISSIONS"


class StorageFull(LimitExceeded):
    """A person has as much saved as one person may have."""

    code = "TOO_MUCH_SAVED"


#: Room for somebody who goes through a folder of configs; a script in a loop meets it within seconds.
SUBMISSIONS: Final = Allowance(
    name="config-submissions",
    what="configs submitted",
    per_person=200,
    per_address=400,
    window_seconds=600,
    refusal=TooManySubmissions,
)


@dataclass(frozen=True)
class Submitted:
    """What a submission made, or found there already."""

    config: UserModelConfig
    version: ConfigVersion
    architecture: Architecture
    is_new_version: bool


def submit_config(
    *, user: User, model_id: str, config: str | bytes | dict[str, Any], address: str
) -> Submitted:
    """Check a config and save it as this person's of that model, by its normalised id.

    `config` is the text of the file or a parsed object, `address` where the request comes from. Raises
    TooManySubmissions, InvalidConfig, UnsupportedArchitecture, LimitExceeded or CalculatorUnavailable.
    """
    spend(SUBMISSIONS, person=str(user.pk), address=address)
    return save_config(owner=user, model_id=model_id, config=config, submitted_by=user)


def save_config(
    *,
    owner: User | None,
    model_id: str,
    config: str | bytes | dict[str, Any],
    submitted_by: User,
    into: UserModelConfig | None = None,
) -> Submitted:
    """The same for any owner, uncounted; `into` names the config that the version belongs to where it is known.

    Raises the calculator's errors.
    """
    valid = _valid(config)
    content = canonical_json(valid.config)
    architecture = shared_calculator().describe(valid.config)

    def save() -> Submitted:
        return _save(owner, model_id, content, architecture, submitted_by, into)

    for _ in range(_TRIES - 1):
        try:
            return save()
        except IntegrityError:
            # The same person submitted the same model elsewhere at this very moment: look again.
            continue
    return save()


def _valid(config: str | bytes | dict[str, Any]) -> ValidConfig:
    if isinstance(config, (str, bytes)):
        return read_config(config)
    valid = check_config(config)
    size = len(json.dumps(valid.config, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        sentence = f"The config has {size:,} bytes; a config.json of up to {MAX_BYTES:,} is read."
        raise InvalidConfig((Problem("TOO_LARGE", sentence),))
    return valid


def _save(
    owner: User | None,
    model_id: str,
    content: str,
    architecture: Architecture,
    submitted_by: User,
    into: UserModelConfig | None,
) -> Submitted:
    now = timezone.now()
    sha256 = content_hash(content)
    with transaction.atomic():
        configs = UserModelConfig.objects.select_for_update()
        if into is not None:
            config: UserModelConfig | None = configs.get(pk=into.pk)
        else:
            config = configs.of_model(model_id).filter(owner=owner).first()
        newest = config.versions.order_by("-number").first() if config is not None else None
        if config is not None and config.is_retired and into is None:
            # Whoever submits one again wants to use it; an admin's edit leaves it where it is.
            config.is_retired = False
            config.save(update_fields=["is_retired"])
        if config is not None and newest is not None and newest.sha256 == sha256:
            return Submitted(config, newest, architecture, is_new_version=False)
        _check_room(owner, len(content))
        if config is None:
            config = UserModelConfig.objects.create(
                owner=owner, model_id=model_id, submitted_at=now, updated_at=now
            )
        else:
            config.updated_at = now
            config.save(update_fields=["updated_at"])
        total = architecture.parameters.total
        version = ConfigVersion.objects.create(
            config=config,
            number=newest.number + 1 if newest is not None else 1,
            content=content,
            size_bytes=len(content),
            sha256=sha256,
            model_type=architecture.model_type,
            attention_type=architecture.attention_type,
            parameter_count=total if total <= MAX_COUNT else None,
            submitted_at=now,
            submitted_by=submitted_by,
        )
    return Submitted(config, version, architecture, is_new_version=True)


def _check_room(owner: User | None, size_bytes: int) -> None:
    theirs = ConfigVersion.objects.filter(config__owner=owner)
    saved_bytes = theirs.aggregate(size_bytes=Sum("size_bytes"))["size_bytes"] or 0
    if saved_bytes + size_bytes > MAX_SAVED_BYTES:
        raise StorageFull(
            f"As much is saved as one person may save ({spoken_bytes(MAX_SAVED_BYTES)} of configs)."
            " Ask an admin to delete some that are no longer used."
        )
