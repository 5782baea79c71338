"""`manage.py model_memory FILE`: what a config.json says about its model, and how much memory it needs.

Reads files and computes; it knows nothing of the hub, of saved configs or of any table.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from gated_configs.memory import (
    CalculatorError,
    default_request,
    describe_text,
    estimate,
    find_card,
    fit_on,
)
from gated_configs.memory.report import report_lines


class Command(BaseCommand):
    """Prints a page of figures, or with --json one object of them, all sizes in bytes."""

    help = "Show parameters and memory of a model from its config.json."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """One file, and what is asked of it."""
        parser.add_argument("model", metavar="FILE", help="path of a config.json")
        parser.add_argument(
            "--precision", help="format of the weights: fp32, bf16, fp16, fp8, int8, int4, nf4, stored, ..."
        )
        parser.add_argument(
            "--cache", default=None, help="format of the cache: fp32, bf16, fp16, fp8, int8, int4"
        )
        parser.add_argument("--batch", type=int, help="sequences, or variations of a take, at once")
        parser.add_argument("--context", type=int, help="tokens of prompt and answer together")
        parser.add_argument("--duration", type=float, help="seconds of music")
        parser.add_argument("--gpu", help="a card of the list, such as rtx-4090")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Read, compute, print. Every refusal is one sentence."""
        try:
            architecture = describe_text(_text_of(options["model"]))
            changes = {
                "weights": options["precision"],
                "cache": options["cache"],
                "batch": options["batch"],
                "context": options["context"],
                "duration_seconds": options["duration"],
            }
            first = default_request(architecture)
            if options["precision"]:
                # The cache and activations follow the weights unless they are chosen.
                changes["activations"] = ""
                changes["cache"] = options["cache"] or ""
            request = first.changed(**{name: value for name, value in changes.items() if value is not None})
            result = estimate(architecture, request)
            card = find_card(options["gpu"]) if options["gpu"] else None
        except (CalculatorError, ValueError) as error:
            raise CommandError(str(error)) from error
        if options["json"]:
            facts: dict[str, Any] = {"architecture": architecture.as_json(), "estimate": result.as_json()}
            if card is not None:
                fit = fit_on(architecture, request, card)
                facts["gpu"] = {
                    "name": card.name,
                    "memory_bytes": card.memory_bytes,
                    "usable_bytes": fit.usable_bytes,
                    "fits": fit.fits,
                }
            self.stdout.write(json.dumps(facts, indent=2))
            return
        for line in report_lines(architecture, result, card):
            self.stdout.write(line)


def _text_of(name: str) -> bytes:
    path = Path(name)
    if path.is_dir():
        path = path / "config.json"
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError(
            f"There is no file {name!r}. Give the path of a config.json: files are known here, and the built-in"
            " MusicGen models; ids of the hub are not looked up by this command."
        ) from None
    except OSError as error:
        raise ValueError(f"{name!r} cannot be read: {error.strerror}.") from error
