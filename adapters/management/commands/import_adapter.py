"""`manage.py import_adapter PATH_OR_ID`: an adapter from a folder, a zip or the hub."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from adapters.api_schemas import AdapterOut, ImportOut
from adapters.format.errors import AdapterRefused
from adapters.services.importing import (
    FolderSource,
    HubSource,
    ImportResult,
    Source,
    ZipSource,
    import_adapter,
)
from gated_configs.wording import spoken_bytes
from registry.services import ModelNotFound, NoActiveModel, get_active_model


class Command(BaseCommand):
    """Exits 0 when the adapter is there afterwards, new or not."""

    help = "Import a LoRA adapter from a folder, a zip file or the Hugging Face hub."
    # `serve` checks the site; importing every page to do so again takes longer than the work.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Options."""
        parser.add_argument(
            "source",
            metavar="PATH_OR_ID",
            help="A folder, a zip file, or a hub id as owner/name, with @revision for another than the newest.",
        )
        parser.add_argument(
            "--name", help="What to call it; without one, after its folder, zip or repository."
        )
        parser.add_argument("--version", dest="adapter_version", help="Any text; 1.0 without one.")
        parser.add_argument("--base-model", help="Id of the model it was made for, if its files do not say.")
        parser.add_argument("--description", default="", help="A few words about it.")
        parser.add_argument("--trigger-words", default="", help="Words it was trained to answer to.")
        parser.add_argument("--json", action="store_true", help="Print one JSON object.")

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Django's own `--version` makes room for that of the adapter."""
        return super().create_parser(prog_name, subcommand, conflict_handler="resolve", **kwargs)

    def handle(self, *args: Any, **options: Any) -> None:
        """Import and say what became of it. Raises CommandError with a sentence."""
        as_json: bool = options["json"]
        try:
            result = import_adapter(
                source=source_of(options["source"]),
                name=options["name"],
                version=options["adapter_version"],
                base_model=options["base_model"],
                description=options["description"],
                trigger_words=options["trigger_words"],
            )
        except AdapterRefused as refused:
            self._give_up(as_json, refused.message, refused.code, refused.facts, refused.detail)
        except ModelNotFound as problem:
            self._give_up(as_json, str(problem), "MODEL_NOT_FOUND", {"model_id": problem.model_id})
        except DatabaseError as problem:
            raise CommandError(
                "There is no database yet, or it is an older one. Run `manage.py migrate`, or start the studio once."
            ) from problem
        self._report(as_json, result)

    def _report(self, as_json: bool, result: ImportResult) -> None:
        adapter = result.adapter
        try:
            model = get_active_model()
        except NoActiveModel:
            model = None
        if as_json:
            answer = ImportOut(created=result.created, adapter=AdapterOut.of(adapter, model))
            self.stdout.write(json.dumps(answer.model_dump(mode="json"), indent=2))
            return
        if not result.created:
            self.stdout.write(f"{adapter} is there already, as adapter {adapter.pk}. Nothing was changed.")
            return
        self.stdout.write(
            f"Imported {adapter} as adapter {adapter.pk}: rank {adapter.rank}, {adapter.tensor_count} tensors,"
            f" {spoken_bytes(adapter.file_bytes)}."
        )
        for note in adapter.notes:
            self.stdout.write(f"  {note}")
        if model is not None:
            judgement = adapter.judge(model)
            works = "It works with" if judgement.is_usable else "It does not work with"
            self.stdout.write(f"{works} {model}, the active model: {judgement.reason}.")

    def _give_up(
        self, as_json: bool, sentence: str, code: str, facts: dict[str, object], detail: str = ""
    ) -> NoReturn:
        if as_json:
            self.stdout.write(json.dumps({"error": sentence, "error_code": code, **facts}, default=str))
        raise CommandError(f"{sentence} ({detail})" if detail else sentence)


def source_of(text: str) -> Source:
    """What a person means: a path that is there, else a hub id. Raises AdapterRefused for what looks like neither."""
    path = Path(os.path.expanduser(text))  # noqa: PTH111 - Path's raises for a person who is not there
    try:
        if text and path.is_dir():
            return FolderSource(path)
        if path.is_file():
            return FolderSource(path) if path.suffix == ".safetensors" else ZipSource(path, path.name)
    except OSError as error:
        raise AdapterRefused(
            "FOLDER_NOT_FOUND", f"{text[:200]!r} cannot be read: {error.strerror}."
        ) from error
    is_address = text.startswith(("http://", "https://"))
    is_path = (
        text.startswith((".", "/", "~")) or path.suffix in (".zip", ".safetensors") or text.count("/") != 1
    )
    if is_path and not is_address:
        raise AdapterRefused(
            "FOLDER_NOT_FOUND",
            f"There is no folder or file {text[:200]!r}. Check the path; a hub id has the form owner/name.",
        )
    return HubSource(text)
