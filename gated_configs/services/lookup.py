"""Finds the config of a model: one's own, one that an admin shared, a built-in one, or the hub's.

Every answer says which it was; every failure says in one sentence what happened and in one what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from django.contrib.auth.models import AnonymousUser, User
from django.utils import timezone

from gated_configs.hub import DownloadFailed
from gated_configs.hub import errors as hub_errors
from gated_configs.models import ConfigVersion, UserModelConfig
from gated_configs.services import rate_limits
from gated_configs.services.builtin import builtin_config, canonical_builtin_id
from gated_configs.services.hub_configs import (
    CONFIG_UNREADABLE,
    NO_CONFIG,
    HubIsBusy,
    canonical_json,
    content_hash,
    hub_config,
)
from gated_configs.services.model_ids import hub_page
from gated_configs.wording import spoken_seconds

Person = User | AnonymousUser | None

#: The hub counts requests by the server's token, which all people share.
HUB_LOOKUPS: Final = rate_limits.Allowance(
    name="hub-lookups", what="models looked up", per_person=200, per_address=0, window_seconds=600
)

MODEL_GATED: Final = "MODEL_GATED"
TOO_MANY_LOOKUPS: Final = "TOO_MANY_LOOKUPS"


class Source(StrEnum):
    """Where a config came from, in the order in which they are asked."""

    OWN = "own"
    SHARED = "shared"
    BUILTIN = "builtin"
    HUB = "hub"


@dataclass(frozen=True, kw_only=True)
class FoundConfig:
    """A config and where it came from. `sha256` names its content, whatever the order of its keys."""

    model_id: str
    config: dict[str, Any]
    source: Source
    sha256: str
    commit: str = ""
    fetched_at: datetime | None = None
    is_expired: bool = False
    version: int | None = None
    submitted_at: datetime | None = None
    is_verified: bool = False

    @property
    def source_sentence(self) -> str:
        """Where it came from, for people."""
        verified = ", verified by an admin" if self.is_verified else ""
        if self.source is Source.OWN:
            return f"Your saved config, version {self.version} of {_day(self.submitted_at)}{verified}"
        if self.source is Source.SHARED:
            return f"Shared by an admin, version {self.version} of {_day(self.submitted_at)}{verified}"
        if self.source is Source.BUILTIN:
            return "Built in"
        commit = f", commit {self.commit[:7]}" if self.commit else ""
        if self.is_expired:
            return f"From the hub{commit}, fetched {_ago(self.fetched_at)}; the hub cannot be asked now"
        return f"From the hub{commit}, fetched {_ago(self.fetched_at)}"


@dataclass(frozen=True, kw_only=True)
class SavedConfig:
    """A saved config that a person gets, and the version of it that counts for them."""

    config: UserModelConfig
    version: ConfigVersion
    source: Source

    @property
    def model_id(self) -> str:
        """The model it is of."""
        return self.config.model_id

    @property
    def submitted_at(self) -> datetime:
        """When this version was submitted."""
        return self.version.submitted_at

    @property
    def is_verified(self) -> bool:
        """Whether an admin found this version right."""
        return self.config.verified_version_id == self.version.pk


class LookupFailed(Exception):
    """No config was found. `str()` is what happened and what to do, `error_code` and `status` are for programs.

    `requires_config` says that a pasted config would help. `reason` is finer than the code where there is more.
    """

    def __init__(
        self,
        error_code: str,
        sentence: str,
        next_step: str,
        *,
        model_id: str,
        status: int,
        reason: str = "",
        requires_config: bool = False,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(f"{sentence} {next_step}".strip())
        self.error_code = error_code
        self.sentence = sentence
        self.next_step = next_step
        self.model_id = model_id
        self.status = status
        self.reason = reason or error_code
        self.requires_config = requires_config
        self.retry_after_seconds = retry_after_seconds

    @property
    def model_page(self) -> str:
        """Address of the model's page on the hub."""
        return hub_page(self.model_id)


def find_config(*, user: Person, model_id: str) -> FoundConfig:
    """The config of a model, by its normalised id, as that person gets it. Raises LookupFailed."""
    saved = has_config(user=user, model_id=model_id)
    if saved is not None:
        return FoundConfig(
            model_id=model_id,
            config=saved.version.as_config(),
            source=saved.source,
            sha256=saved.version.sha256,
            version=saved.version.number,
            submitted_at=saved.version.submitted_at,
            is_verified=saved.is_verified,
        )
    builtin_id = canonical_builtin_id(model_id) if "/" in model_id else None
    config = builtin_config(builtin_id) if builtin_id is not None else None
    if config is not None:
        return FoundConfig(
            model_id=model_id,
            config=config,
            source=Source.BUILTIN,
            sha256=content_hash(canonical_json(config)),
        )
    return _from_hub(user, model_id)


def has_config(*, user: Person, model_id: str) -> SavedConfig | None:
    """The saved config that this person gets: their own, else the one that an admin shared."""
    configs = UserModelConfig.objects.of_model(model_id).in_use()
    if user is not None and user.is_authenticated:
        own = configs.filter(owner=user).first()
        if own is not None:
            return SavedConfig(config=own, version=own.current, source=Source.OWN)
    shared = configs.shared().select_related("shared_version").first()
    if shared is None or shared.shared_version is None:
        return None
    return SavedConfig(config=shared, version=shared.shared_version, source=Source.SHARED)


def _from_hub(user: Person, model_id: str) -> FoundConfig:
    def may_ask() -> None:
        person = str(user.pk) if user is not None and user.pk is not None else "nobody"
        rate_limits.spend(HUB_LOOKUPS, person=person)

    try:
        answer = hub_config(model_id, may_ask=may_ask)
    except DownloadFailed as failure:
        raise lookup_failure(failure, model_id) from failure
    except rate_limits.TooManyRequests as refused:
        raise LookupFailed(
            TOO_MANY_LOOKUPS,
            str(refused),
            "",
            model_id=model_id,
            status=429,
            retry_after_seconds=refused.retry_after_seconds,
        ) from refused
    row = answer.row
    return FoundConfig(
        model_id=model_id,
        config=row.as_config(),
        source=Source.HUB,
        sha256=row.sha256,
        commit=row.commit,
        fetched_at=row.fetched_at,
        is_expired=answer.expired_because is not None,
    )


def lookup_failure(failure: DownloadFailed, model_id: str) -> LookupFailed:
    """What a failure of the hub means to whoever looks a model up."""
    page = hub_page(model_id)
    code = failure.error_code
    told: dict[str, Any] = {"model_id": model_id, "reason": code}
    if code == hub_errors.GATED_NO_TOKEN:
        return LookupFailed(
            MODEL_GATED,
            f"{model_id} is gated, and this studio has no token for the hub.",
            f"Open {page}, copy its config.json and paste it here. An operator can also set HF_TOKEN.",
            status=403,
            requires_config=True,
            **told,
        )
    if code == hub_errors.GATED_NO_ACCESS:
        return LookupFailed(
            MODEL_GATED,
            f"{model_id} is gated, and this studio's token has no access to it yet.",
            f"Ask for access on {page}, or copy its config.json from there and paste it here.",
            status=403,
            requires_config=True,
            **told,
        )
    if code == hub_errors.BAD_TOKEN:
        return LookupFailed(
            code,
            "The hub does not accept this studio's token: it is wrong or has expired.",
            "An operator makes a new one in the hub's settings and sets HF_TOKEN to it.",
            status=503,
            **told,
        )
    if code == hub_errors.MODEL_NOT_FOUND:
        return LookupFailed(
            code,
            f"The hub has no model {model_id} for this studio to see.",
            "Check the spelling. A private one needs HF_TOKEN to be set to a token that may read it.",
            status=404,
            **told,
        )
    if code in (NO_CONFIG, hub_errors.REVISION_NOT_FOUND):  # without a main branch there is no file in it
        return LookupFailed(
            NO_CONFIG,
            f"{model_id} is on the hub and has no config.json.",
            "Enter the model that it was made from; files such as GGUF and adapters have no config of their own.",
            status=404,
            **told,
        )
    if code == hub_errors.RATE_LIMITED:
        seconds = failure.retry_after_seconds if isinstance(failure, HubIsBusy) else None
        when = spoken_seconds(max(1, seconds)) if seconds is not None else "a few minutes"
        return LookupFailed(
            code,
            "The hub takes no more requests from this studio for now.",
            f"Try again in {when}. A token in HF_TOKEN raises the hub's limit.",
            status=429,
            retry_after_seconds=seconds,
            **told,
        )
    if code == hub_errors.HUB_UNREACHABLE:
        return LookupFailed(
            code,
            str(failure).partition(". ")[0].rstrip(".") + ".",
            "Try again later, or paste the model's config.json here.",
            status=503,
            requires_config=True,
            **told,
        )
    sentence, separator, rest = str(failure).partition(". ")
    return LookupFailed(
        code,
        sentence + ("." if separator else ""),
        rest or "Try another model, or tell whoever published this one.",
        status=422 if code == CONFIG_UNREADABLE else 503,
        **told,
    )


def _day(moment: datetime | None) -> str:
    assert moment is not None
    local = timezone.localtime(moment)
    return f"{local.day} {local:%B %Y}"


def _ago(moment: datetime | None) -> str:
    assert moment is not None
    seconds = (timezone.now() - moment).total_seconds()
    if seconds < 60:
        return "just now"
    if seconds < 86_400:
        return f"{spoken_seconds(seconds // 60 * 60)} ago"
    return f"on {_day(moment)}"
