"""`manage.py model_memory ID_OR_FILE`: parameters and memory of a model, and where its config came from.

Files and built-in models are computed on an empty home too; saved configs and the hub need the tables.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from gated_configs.memory import Architecture, CalculatorError, describe, describe_text, estimate, fit_on
from gated_configs.memory.report import report_lines
from gated_configs.refusals import refusal_of
from gated_configs.services.builtin import builtin_config, canonical_builtin_id
from gated_configs.services.calculation import verdict_of
from gated_configs.services.lookup import LookupFailed, find_config
from gated_configs.services.model_ids import InvalidModelId, normalised_id
from gated_configs.services.questions import InvalidQuestion, Question, card_of, request_of
from gated_configs.services.recommendations import Recommendation, recommend
from gated_configs.services.submission import save_config

if TYPE_CHECKING:
    from django.contrib.auth.models import User

_NO_TABLES = (
    "There is no database yet, or it is an older one. Run `manage.py migrate`, or start the studio once."
)
#: What the report says in its own words.
_SAID = frozenset(
    {
        "FITS",
        "FITS_BARELY",
        "DOES_NOT_FIT",
        "LONGER",
        "LARGER_BATCH",
        "SHORTER",
        "SMALLER_BATCH",
        "SMALLEST_CARD",
    }
)


@dataclass(frozen=True)
class _Told:
    """A model that was found: its id or None for a file, where it came from, and what was computed."""

    model_id: str | None
    source: str
    source_detail: str
    architecture: Architecture


class Command(BaseCommand):
    """Prints a page of figures, or with --json one object of them, all sizes in bytes."""

    help = "Show parameters and memory of a model: a config.json, a built-in or saved one, or one of the hub."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """A model, and what is asked of it."""
        parser.add_argument(
            "model", metavar="ID_OR_FILE", help="owner/name, the address of its page, or a config.json"
        )
        parser.add_argument(
            "--precision", help="format of the weights: fp32, bf16, fp16, fp8, int8, int4, nf4, stored, ..."
        )
        parser.add_argument("--cache", help="format of the cache: fp32, bf16, fp16, fp8, int8, int4")
        parser.add_argument(
            "--batch", type=int, default=1, help="sequences, or variations of a take, at once"
        )
        parser.add_argument("--context", type=int, help="tokens of prompt and answer together")
        parser.add_argument("--duration", type=float, help="seconds of music")
        parser.add_argument("--gpu", help='a card of the list, such as rtx-4090, or "this" for this machine')
        parser.add_argument(
            "--config",
            metavar="FILE",
            help="a config.json to save for ID first, for models that are gated (local mode)",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Find, compute, print. Every refusal is one sentence."""
        try:
            self._tell(options)
        except (CalculatorError, InvalidModelId, InvalidQuestion, LookupFailed) as error:
            self._refuse(error, options)
        except DatabaseError as error:
            raise CommandError(_NO_TABLES) from error

    def _tell(self, options: dict[str, Any]) -> None:
        question = Question(
            precision=options["precision"],
            cache_precision=options["cache"],
            batch_size=options["batch"],
            seq_length=options["context"],
            duration_seconds=options["duration"],
            gpu=options["gpu"],
        )
        card = card_of(question)
        told = _told(options["model"], options["config"])
        request = request_of(question, told.architecture)
        result = estimate(told.architecture, request)
        advice = recommend(told.architecture, request, card)
        if not options["json"]:
            self.stdout.write(f"{told.model_id or options['model']}: {told.source_detail}")
            for line in (*report_lines(told.architecture, result, card), *_further(advice)):
                self.stdout.write(line)
            return
        facts: dict[str, Any] = {
            "model_id": told.model_id,
            "source": told.source,
            "source_detail": told.source_detail,
            "architecture": told.architecture.as_json(),
            "estimate": result.as_json(),
            "recommendations": [{"code": each.code, "sentence": each.sentence} for each in advice],
        }
        if card is not None:
            fit = fit_on(told.architecture, request, card)
            facts["gpu"] = {
                "gpu": card.slug,
                "name": card.name,
                "memory_bytes": card.memory_bytes,
                "usable_bytes": fit.usable_bytes,
                "fits": fit.fits,
                "verdict": verdict_of(fit),
            }
        self.stdout.write(json.dumps(facts, indent=2))

    def _refuse(self, error: Exception, options: dict[str, Any]) -> NoReturn:
        refusal = refusal_of(error)
        assert refusal is not None, "each of the errors that are caught is known"
        sentence = refusal.sentence
        if refusal.requires_config:
            sentence += f" Here: `manage.py model_memory {options['model']} --config FILE`."
        if options["json"]:
            facts = {"error": sentence, "error_code": refusal.code, **refusal.facts}
            self.stdout.write(json.dumps(facts, default=str))
        raise CommandError(sentence) from error


def _told(text: str, config_file: str | None) -> _Told:
    """The model that a person means: a path that is there, else an id. Raises CommandError, or what finding raises."""
    path = _file_of(text)
    if path is not None:
        if config_file is not None:
            raise CommandError("--config saves a config for an id: name the model as owner/name.")
        return _Told(None, "file", f"from the file {path}", describe_text(_read(path)))
    model_id = normalised_id(text)
    if config_file is not None:
        owner = _owner()
        if owner is None:
            raise CommandError(
                "In shared mode configs belong to people: paste it on the memory page instead."
            )
        file = _file_of(config_file)
        if file is None:
            raise CommandError(f"There is no file {config_file[:200]!r}.")
        save_config(owner=owner, model_id=model_id, config=_read(file), submitted_by=owner)
    try:
        found = find_config(user=_owner(), model_id=model_id)
    except DatabaseError:
        builtin_id = canonical_builtin_id(model_id)
        config = builtin_config(builtin_id) if builtin_id is not None else None
        if config is None:
            raise
        return _Told(model_id, "builtin", "built in", describe(config))
    return _Told(model_id, found.source.value, found.source_sentence, describe(found.config))


def _file_of(text: str) -> Path | None:
    """The file that a text names, or None for what is no path. Raises CommandError for a path with nothing there."""
    path = Path(os.path.expanduser(text))  # noqa: PTH111 -- Path's raises for a person who is not there
    try:
        if path.is_dir():
            path = path / "config.json"
        if path.is_file():
            return path
    except (OSError, ValueError) as error:
        raise CommandError(f"{text[:200]!r} cannot be read: {error}.") from error
    if text.startswith((".", "/", "~")) or path.suffix == ".json":
        raise CommandError(
            f"There is no file {str(path)[:200]!r}. Check the path, or give an id as owner/name."
        )
    return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"{str(path)!r} cannot be read: {error.strerror}.") from error


def _owner() -> User | None:
    """Whose saved configs count: the owner's in local mode, nobody's where there are several people."""
    if settings.STUDIO.access != "local":
        return None
    # Imported late: figures of a file need none of what it brings.
    from musicgen_site.access import get_owner

    return get_owner()


def _further(advice: tuple[Recommendation, ...]) -> list[str]:
    """The advice beyond what the report says already."""
    return [f"  {each.sentence}" for each in advice if each.code not in _SAID]
