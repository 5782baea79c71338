"""`manage.py list_adapters`: every adapter, what it was made for, and whether it works with a model."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from adapters.api_schemas import AdapterOut, AdaptersOut
from adapters.models import Adapter, ProofStatus
from registry.models import ModelConfig
from registry.services import ModelNotFound, NoActiveModel, get_active_model, get_model_config


class Command(BaseCommand):
    """Prints a table, or the same facts as `GET /api/adapters` with --json."""

    help = "List the adapters, and say which work with a model and why others do not."
    # `serve` checks the site; importing every page to do so again takes longer than the work.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Options."""
        parser.add_argument(
            "--compatible-with",
            metavar="ID",
            help="Only those that work with this model; else all are judged.",
        )
        parser.add_argument("--json", action="store_true", help="Print one JSON object.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print. Raises CommandError for a model that is not there, and when there is no database yet."""
        try:
            self._print(options["compatible_with"], as_json=options["json"])
        except ModelNotFound as problem:
            if options["json"]:
                self.stdout.write(json.dumps({"error": str(problem), "error_code": "MODEL_NOT_FOUND"}))
            raise CommandError(str(problem)) from problem
        except DatabaseError as problem:
            raise CommandError(
                "There is no database yet, or it is an older one. Run `manage.py migrate`, or start the studio once."
            ) from problem

    def _print(self, model_id: str | None, *, as_json: bool) -> None:
        found = Adapter.objects.select_related("base_model", "imported_by").prefetch_related("proofs")
        active = _active_model()
        model = get_model_config(model_id) if model_id else active
        rows = list(found.compatible_with(model) if model_id and model is not None else found)
        if as_json:
            answer = AdaptersOut(
                adapters=[AdapterOut.of(adapter, model) for adapter in rows],
                total=len(rows),
                current_model=active.pk if active is not None else None,
            )
            self.stdout.write(json.dumps(answer.model_dump(mode="json"), indent=2))
            return
        if not rows:
            works = f" that works with {model}" if model_id else ""
            self.stdout.write(
                f"There is no adapter{works} yet. `manage.py import_adapter PATH_OR_ID` imports one."
            )
            return
        self._table(rows, model)

    def _table(self, rows: list[Adapter], model: ModelConfig | None) -> None:
        lines = [("id", "adapter", "base", "rank", "proof", "" if model is None else f"with {model}")]
        for adapter in rows:
            base = adapter.base_model.display_name if adapter.base_model else adapter.base_model_name or "-"
            judgement = adapter.judge(model) if model is not None else None
            verdict = ""
            if judgement is not None:
                verdict = f"{'works' if judgement.is_usable else 'no'}: {judgement.reason}"
            lines.append(
                (str(adapter.pk), str(adapter), base, str(adapter.rank), _proof(adapter, model), verdict)
            )
        widths = [max(len(line[column]) for line in lines) for column in range(5)]
        for line in lines:
            cells = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False))
            self.stdout.write(f"{cells}  {line[-1]}".rstrip())


def _proof(adapter: Adapter, model: ModelConfig | None) -> str:
    """The newest proof on the model: passed, failed, waiting, or a dash."""
    if model is None:
        return "-"
    found = [proof for proof in adapter.proofs.all() if proof.model_id == model.pk]
    return ProofStatus(found[0].status).label.lower() if found else "-"


def _active_model() -> ModelConfig | None:
    try:
        return get_active_model()
    except NoActiveModel:
        return None
