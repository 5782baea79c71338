"""Backups of a studio whose takes and adapters lie in a bucket: into one, from one, and while it is away."""

import tarfile
from pathlib import Path

import pytest
from django.core.management import CommandError

from generation.models import Take
from registry.media import clips_media, takes_media, weights_media
from tests.backup.studios import (
    all_files,
    all_rows,
    assert_rows_and_files_agree,
    back_up,
    bring_back,
    refused,
    studio_at,
)
from tests.conftest import StorageServer


def in_bucket() -> dict[str, bytes]:
    found = {}
    for kind, media in (("takes", takes_media()), ("clips", clips_media()), ("adapters", weights_media())):
        for file in media.entries():
            with media.local(file.name) as path:
                found[f"{kind}/{file.name}"] = path.read_bytes()
    return found


def test_a_studio_moves_from_its_home_into_a_bucket_and_is_kept_from_there(
    bucket: str, full: Path, backup: Path, tmp_path: Path
) -> None:
    rows, files = all_rows(), all_files(full)
    with studio_at(tmp_path / "new") as home:
        assert bring_back(backup)["replaced"] == ""
        assert all_rows() == rows
        assert in_bucket() == files
        assert all_files(home) == {}
        assert [path.name for path in home.glob("scratch/*")] == []
        assert "The bucket of MUSICGEN_MEDIA_URL is not empty" in refused(backup)
        lost = Take.objects.order_by("pk").first()
        assert lost is not None
        takes_media().remove(lost.file_name)
        del files[f"takes/{lost.file_name}"]
        with tarfile.open(back_up(tmp_path / "again.tar")) as tar:
            names = [name for name in tar.getnames() if name.startswith("home/")]
            kept = {name.removeprefix("home/"): tar.extractfile(name) for name in names}
            assert {name: file.read() for name, file in kept.items() if file} == files


def test_a_bucket_that_is_away_changes_nothing(
    bucket: str, full: Path, backup: Path, tmp_path: Path, storage_server: StorageServer
) -> None:
    rows, files = all_rows(), all_files(full)
    with storage_server.away():
        with pytest.raises(
            CommandError, match="The backup could not be made: The storage of takes and adapters"
        ):
            back_up(tmp_path / "none.tar")
        assert not (tmp_path / "none.tar").exists()
        said = refused(backup, "--force")
    assert "could not be restored: The storage of takes and adapters" in said
    assert "Nothing was changed" in said
    assert all_rows() == rows
    assert all_files(full) == files
    assert_rows_and_files_agree(full)
