"""What an admin does with saved configs: verify, share, retire, and see how they differ from the hub's.

Of one model at most one version of one config is shared: sharing another takes its place.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError, transaction
from django.utils import timezone

from gated_configs.deeds import tell_deed
from gated_configs.hub import DownloadFailed
from gated_configs.memory import CalculatorError, check_config
from gated_configs.models import ConfigVersion, HubConfig, UserModelConfig
from gated_configs.services.differences import Differences, differences
from gated_configs.services.hub_configs import hub_config
from gated_configs.services.lookup import lookup_failure
from gated_configs.services.submission import Submitted, save_config

#: The permission of those who curate.
MAY_CURATE = "gated_configs.change_usermodelconfig"


class CurationRefused(Exception):
    """It cannot be done with this config; `str()` says why and what to do."""


@dataclass(frozen=True)
class HubComparison:
    """How the newest version differs from the hub's config: what the hub has is the "after"."""

    commit: str
    fetched_at: datetime
    differences: Differences


def take_over(*, config: UserModelConfig | None, model_id: str, text: str | bytes, by: User) -> Submitted:
    """A curator's text as a new version of a config, or as a config of their own where there is none.

    Raises the calculator's errors, as a submission does.
    """
    if config is None:
        return save_config(owner=by, model_id=model_id, config=text, submitted_by=by)
    _check(by)
    return save_config(
        owner=config.owner, model_id=config.model_id, config=text, submitted_by=by, into=config
    )


def verify(config: UserModelConfig, *, by: User) -> ConfigVersion:
    """Say that its newest version is right, and answer that version."""
    _check(by)
    config.verified_version = config.current
    config.verified_by = by
    config.verified_at = timezone.now()
    config.save(update_fields=["verified_version", "verified_by", "verified_at"])
    return config.verified_version


def unverify(config: UserModelConfig, *, by: User) -> None:
    """Take that back."""
    _check(by)
    config.verified_version = None
    config.verified_by = None
    config.verified_at = None
    config.save(update_fields=["verified_version", "verified_by", "verified_at"])


def share(config: UserModelConfig, *, by: User) -> ConfigVersion:
    """Show its newest version to everybody, in place of what was shared of the model before; answer the version.

    Raises CurationRefused for a retired one.
    """
    _check(by)
    try:
        with transaction.atomic():
            if UserModelConfig.objects.select_for_update().get(pk=config.pk).is_retired:
                raise CurationRefused(f"{config} is retired. Restore it before you share it.")
            UserModelConfig.objects.of_model(config.model_id).shared().exclude(pk=config.pk).update(
                shared_version=None
            )
            config.shared_version = config.current
            config.save(update_fields=["shared_version"])
            tell_deed("config.shared", config, by=by)
    except IntegrityError as error:
        message = f"Another config of {config.model_id} was shared at this very moment. Look again."
        raise CurationRefused(message) from error
    return config.shared_version


def unshare(config: UserModelConfig, *, by: User) -> None:
    """Show it to its owner alone again."""
    _check(by)
    with transaction.atomic():
        config.shared_version = None
        config.save(update_fields=["shared_version"])
        tell_deed("config.unshared", config, by=by)


def retire(config: UserModelConfig, *, by: User) -> None:
    """Use it no longer, for its owner neither. The owner may submit one again; its versions stay."""
    _check(by)
    with transaction.atomic():
        config.shared_version = None
        config.is_retired = True
        config.save(update_fields=["shared_version", "is_retired"])
        tell_deed("config.retired", config, by=by)


def restore(config: UserModelConfig, *, by: User) -> None:
    """Let its owner use a retired one again."""
    _check(by)
    config.is_retired = False
    config.save(update_fields=["is_retired"])


def retire_own(*, user: User, model_id: str) -> UserModelConfig:
    """Let a person stop using their own config of a model, so that the next source counts again.

    Raises UserModelConfig.DoesNotExist where they use none, CurationRefused for one that everybody sees.
    """
    with transaction.atomic():
        configs = UserModelConfig.objects.select_for_update().in_use()
        config = configs.of_model(model_id).get(owner=user)
        if config.is_shared:
            raise CurationRefused(
                f"An admin shares this config of {config.model_id} with everybody, so only an admin retires it."
            )
        config.is_retired = True
        config.save(update_fields=["is_retired"])
    return config


def restore_own(*, user: User, config_id: int) -> UserModelConfig:
    """Take that back. Raises UserModelConfig.DoesNotExist for a config that is not theirs."""
    config = UserModelConfig.objects.get(pk=config_id, owner=user)
    config.is_retired = False
    config.save(update_fields=["is_retired"])
    return config


def compare_with_hub(config: UserModelConfig) -> HubComparison:
    """How its newest version differs from what the hub has. Raises LookupFailed."""
    try:
        row = hub_config(config.model_id).row
    except DownloadFailed as failure:
        raise lookup_failure(failure, config.model_id) from failure
    there = row.as_config()
    with suppress(CalculatorError):
        # As a submission does: where the family can be told, `model_type` is filled in.
        there = check_config(there).config
    return HubComparison(row.commit, row.fetched_at, differences(config.current.as_config(), there))


def version_differences(version: ConfigVersion) -> Differences:
    """What a version changed against the one before; nothing for the first."""
    before = ConfigVersion.objects.filter(config=version.config_id, number__lt=version.number).first()
    return differences(before.as_config(), version.as_config()) if before is not None else Differences(())


def forget(config: HubConfig, *, by: User) -> None:
    """Drop what the hub answered, so that the next look-up asks again."""
    if not by.has_perm("gated_configs.delete_hubconfig"):
        raise PermissionDenied
    config.delete()


def _check(by: User) -> None:
    if not by.has_perm(MAY_CURATE):
        raise PermissionDenied
