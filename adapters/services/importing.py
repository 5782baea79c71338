"""Imports an adapter: its files come in, are judged, and are kept with a row; or nothing is left of them.

One verb for the pages, the API, the admin and the command.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from django.conf import settings
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction

from adapters.events import AdaptersChanged
from adapters.format.inspection import Inspection, identity, inspect
from adapters.importing.archive import unpack_zip
from adapters.importing.contents import MAX_CONFIG_BYTES, Arrived, no_weights
from adapters.importing.folder import copy_folder
from adapters.importing.hub import fetch, parse_hub_id
from adapters.importing.model_card import ModelCard, read_card, tidy_name
from adapters.importing.store import arriving, hash_of
from adapters.models import Adapter, AdapterSource
from adapters.services.bases import believed_base
from adapters.services.editing import Wording, check_base, checked, name_taken, taken_by
from adapters.services.proofs import mark_sound
from adapters.services.storage import has_weights, keep_weights, remove_weights, weights_lock
from gated_configs.deeds import tell_deed
from registry.events import send_on_commit
from registry.media import MediaAway
from registry.models import ModelConfig
from registry.services import get_model_config

DEFAULT_VERSION: Final = "1.0"
_MAX_SOURCE_CHARACTERS: Final = 500


@dataclass(frozen=True)
class FolderSource:
    """A folder of this machine. Reading one is a right of whoever runs the studio, not of everybody it serves."""

    path: Path


@dataclass(frozen=True)
class ZipSource:
    """A zip file, and what it was called where it came from."""

    path: Path
    name: str = ""


@dataclass(frozen=True)
class HubSource:
    """A repository of the Hugging Face hub, by its id, `id@revision` or the address of its page."""

    hub_id: str
    revision: str = ""


@dataclass(frozen=True)
class ShippedSource:
    """A folder of this release, for the demo model."""

    path: Path


Source = FolderSource | ZipSource | HubSource | ShippedSource


@dataclass(frozen=True)
class ImportResult:
    """The adapter, and whether it is new; else it was there with the same content."""

    adapter: Adapter
    created: bool


def import_adapter(
    *,
    source: Source,
    imported_by: User | None = None,
    name: str | None = None,
    version: str | None = None,
    base_model: str | None = None,
    description: str = "",
    trigger_words: str = "",
    default_strength: float | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
) -> ImportResult:
    """Import an adapter and answer its row; the same content under the same name answers the row that is there.

    Without a name it is called after its folder, zip or repository. `base_model` is the id of the model it was made
    for, where its files do not say or say wrongly. `on_bytes` hears of a download. Raises AdapterRefused with a
    sentence, and ModelNotFound; then nothing is left on disk.
    """
    if isinstance(source, HubSource):
        hub_id, revision = parse_hub_id(source.hub_id)
        source = HubSource(hub_id, source.revision or revision)
    wanted = checked(
        Wording(name or None, version or None, description or None, trigger_words or None, default_strength)
    )
    base = get_model_config(base_model) if base_model else None
    with arriving(settings.STUDIO.incoming_folder) as folder:
        arrived = _bring_in(source, folder, should_stop, on_bytes)
        weights = arrived.weights
        if weights is None:
            raise no_weights(arrived.names)
        found = inspect(weights, _config_of(arrived))
        card = read_card(arrived.readme)
        row = _row(source, arrived, found, card, base, imported_by)
        row.weights_sha256 = hash_of(weights)
        row.file_bytes = weights.stat().st_size
        for field, value in wanted.items():
            setattr(row, field, value)
        row.sha256 = identity(row.weights_sha256, found.config)
        is_named = "name" in wanted or "version" in wanted
        return _keep(row, weights, is_named=is_named)


def _bring_in(
    source: Source, folder: Path, should_stop: Callable[[], bool], on_bytes: Callable[[int, int], None]
) -> Arrived:
    max_bytes = settings.STUDIO.max_adapter_bytes
    if isinstance(source, (FolderSource, ShippedSource)):
        return copy_folder(source.path, folder, max_bytes=max_bytes)
    if isinstance(source, ZipSource):
        return unpack_zip(source.path, folder, max_bytes=max_bytes, name=source.name)
    return fetch(
        source.hub_id,
        folder,
        max_bytes=max_bytes,
        revision=source.revision,
        should_stop=should_stop,
        on_bytes=on_bytes,
    )


def _config_of(arrived: Arrived) -> bytes | None:
    if arrived.config is None:
        return None
    with arrived.config.open("rb") as file:
        return file.read(MAX_CONFIG_BYTES + 1)


def _row(
    source: Source,
    arrived: Arrived,
    found: Inspection,
    card: ModelCard,
    base: ModelConfig | None,
    imported_by: User | None,
) -> Adapter:
    """The row as it would be without anybody's wishes. Raises AdapterRefused for a base that cannot be."""
    kind, source_name = _told(source, arrived)
    base_name = found.base_model_name or card.base_model
    row = Adapter(
        name=tidy_name(arrived.name),
        version=DEFAULT_VERSION,
        description=card.description,
        trigger_words=card.trigger_words,
        config=found.config.as_dict(),
        tensor_count=found.tensor_count,
        rank=found.rank,
        alpha=found.alpha,
        variants=list(found.variants),
        notes=list(found.notes),
        source=kind,
        source_name=source_name[:_MAX_SOURCE_CHARACTERS],
        imported_by=imported_by,
        base_model_name=base_name,
        **asdict(found.fingerprint),
    )
    if base is None:
        base, notes = believed_base(base_name, found.fingerprint)
        row.notes += notes
    else:
        check_base(row, base)
    row.base_model = base
    if arrived.left_out:
        row.notes.append(
            f"Left out: {', '.join(arrived.left_out)[:200]}. Pickles can run any program and are never read."
        )
    return row


def _told(source: Source, arrived: Arrived) -> tuple[AdapterSource, str]:
    """The kind of a source and what it is called."""
    if isinstance(source, FolderSource):
        # Not its whole path: everybody who uses the studio sees where an adapter is from.
        return AdapterSource.FOLDER, arrived.name
    if isinstance(source, ShippedSource):
        return AdapterSource.SHIPPED, arrived.name
    if isinstance(source, ZipSource):
        return AdapterSource.ZIP, source.name or source.path.name
    return AdapterSource.HUB, f"{source.hub_id}@{arrived.revision}" if arrived.revision else source.hub_id


def _keep(row: Adapter, weights: Path, *, is_named: bool) -> ImportResult:
    """Move the weights to their place and save the row, unless that adapter is there. Raises AdapterRefused."""
    with weights_lock():
        same = _same(row, is_named=is_named)
        if same is None and (other := taken_by(row.name, row.version)) is not None:
            raise name_taken(other)
        is_shared = has_weights(row.weights_sha256)
        # Also where the file is there: it may have been damaged since, and this one is known to be sound.
        keep_weights(weights, row.weights_sha256)
        if same is not None and _heal(same):
            return ImportResult(same, created=False)
        try:
            with transaction.atomic():
                row.save(force_insert=True)
                tell_deed("adapter.imported", row, by=row.imported_by, detail=row.source_name)
                send_on_commit(AdaptersChanged())
        except BaseException as error:
            if not is_shared:
                with contextlib.suppress(MediaAway):  # the clean-up finds it
                    remove_weights(row.weights_sha256)
            # Another machine may have taken the name meanwhile: the lock is this one's alone.
            other = taken_by(row.name, row.version) if isinstance(error, IntegrityError) else None
            if other is not None:
                raise name_taken(other) from error
            raise
    _heal(row)
    return ImportResult(row, created=True)


def _same(row: Adapter, *, is_named: bool) -> Adapter | None:
    """The adapter that this one is: same content, and the same name where one was asked for."""
    found = Adapter.objects.filter(sha256=row.sha256).order_by("id")
    if is_named:
        found = found.filter(name__iexact=row.name, version__iexact=row.version)
    return found.first()


def _heal(adapter: Adapter) -> bool:
    """Rows that were broken are sound again: it was for want of this file. False where this one was just deleted."""
    for broken in Adapter.objects.filter(weights_sha256=adapter.weights_sha256).exclude(broken_code=""):
        mark_sound(broken)
    try:
        adapter.refresh_from_db(fields=["broken_code", "broken_reason"])
    except Adapter.DoesNotExist:
        return False
    return True
