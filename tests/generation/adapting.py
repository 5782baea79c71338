"""Dwarf models and real adapters for them, brought in through the product's own import."""

from pathlib import Path
from typing import Any

from adapters.models import Adapter
from adapters.services.importing import FolderSource, ZipSource, import_adapter
from generation.models import Job, JobStatus
from registry.models import ModelConfig
from registry.services import activate_model, note_architecture
from tests.switching.models import dwarf

#: What the dwarfs are called by people.
NAMES = {"mono": "Dwarf Mono", "wide": "Dwarf Wide", "stereo": "Dwarf Stereo", "deep": "Dwarf Deep"}


def dwarf_model(kind: str, folder: Path, *, active: bool = False) -> ModelConfig:
    """The row of a dwarf, installed, with how it is built."""
    model = dwarf(f"dwarf-{kind}", folder, display_name=NAMES[kind], hf_model_id=f"dwarfs/musicgen-{kind}")
    note_architecture(model, folder)
    if active:
        activate_model(model.pk)
        model.refresh_from_db()
    return model


def bring_in(folder: Path, name: str, **said: Any) -> Adapter:
    """Import the adapter of a folder."""
    return import_adapter(source=FolderSource(folder), name=name, **said).adapter


def bring_in_zip(content: bytes, folder: Path, name: str, **said: Any) -> Adapter:
    """Import the adapter of a zip, which is written to the folder."""
    path = folder / f"{name}.zip"
    path.write_bytes(content)
    return import_adapter(source=ZipSource(path, path.name), name=name, **said).adapter


def failure(job: Job) -> tuple[str, str]:
    """Code and sentence of a failed job."""
    job.refresh_from_db()
    assert job.status == JobStatus.FAILED
    return job.error_code, job.error_message
