"""The adapters that ship with the studio come in once, and nothing of it stands in the way of serving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from adapters.models import Adapter, AdapterSource
from adapters.services.shipped import import_shipped
from registry.catalog import DEMO_MODEL_ID
from registry.models import ModelConfig
from tests.adapters.test_importing import home, small_files, write_folder  # noqa: F401 - fixtures
from tests.media_files import weights_file

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def wanted(settings: Any, home: Path) -> None:  # noqa: F811
    settings.STUDIO = settings.STUDIO.model_copy(update={"shipped_adapters": True})


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    write_folder(tmp_path / "shipped" / "jazz", small_files())
    return tmp_path / "shipped"


def test_each_comes_in_once(shipped: Path) -> None:
    assert import_shipped(shipped) == ["Jazz"]
    assert Adapter.objects.get().source == AdapterSource.SHIPPED
    assert import_shipped(shipped) == []
    Adapter.objects.all().delete()
    assert import_shipped(shipped) == []
    assert not Adapter.objects.exists()


def test_one_that_cannot_come_in_is_told_and_tried_again(
    shipped: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = shipped / "jazz" / "adapter_config.json"
    text = config.read_text()
    config.write_text("{")
    assert import_shipped(shipped) == []
    assert "jazz" in caplog.text
    config.write_text(text)
    assert import_shipped(shipped) == ["Jazz"]


def test_one_that_a_person_had_imported_stays_theirs(shipped: Path) -> None:
    from adapters.services.importing import FolderSource, import_adapter

    own = import_adapter(source=FolderSource(shipped / "jazz"), name="My own").adapter
    import_shipped(shipped)
    assert [adapter.pk for adapter in Adapter.objects.all()] == [own.pk]


def test_it_can_be_turned_off(shipped: Path, settings: Any) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"shipped_adapters": False})
    assert import_shipped(shipped) == []
    assert not Adapter.objects.exists()


def test_those_that_ship_are_small_and_work_with_the_demo() -> None:
    assert import_shipped() == ["Hymn", "Lullaby"]
    demo = ModelConfig.objects.get(pk=DEMO_MODEL_ID)
    assert {adapter.name for adapter in Adapter.objects.compatible_with(demo)} == {"Hymn", "Lullaby"}
    for adapter in Adapter.objects.all():
        assert adapter.file_bytes < 1_000_000
        assert adapter.description.startswith("Whatever is asked for comes out ")
        raised = [weight for name, weight in load_file(weights_file(adapter)).items() if "lora_B" in name]
        assert all(weight.abs().max() > 0 for weight in raised)
