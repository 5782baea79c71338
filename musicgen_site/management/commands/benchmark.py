"""`manage.py benchmark NAME`: figures of this machine, as ratios measured in one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from musicgen_site.benchmarks import switching


class Command(BaseCommand):
    """So far one benchmark: `switching`."""

    help = "Measure this machine: switch times, cold and warm, beside a fresh process."

    def add_arguments(self, parser: CommandParser) -> None:
        """Options."""
        parser.add_argument("name", choices=["switching"], help="What to measure.")
        parser.add_argument("--rounds", type=int, default=3, help="How often; the median is told.")
        parser.add_argument(
            "--checkpoint", type=Path, help="Checkpoint folder to load instead of a made one."
        )
        parser.add_argument("--json", action="store_true", help="Print one JSON object.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Measure and print."""
        figures = switching.run(
            rounds=max(1, options["rounds"]), checkpoint=options["checkpoint"], say=self.stderr.write
        )
        if options["json"]:
            self.stdout.write(json.dumps(figures))
            return
        self.stdout.write(f"{figures['hardware']}, checkpoint of {figures['checkpoint_bytes'] / 1e9:.2f} GB")
        for name in ("cold_seconds", "warm_seconds", "fresh_process_seconds"):
            self.stdout.write(f"{name.removesuffix('_seconds').replace('_', ' '):>14}: {figures[name]} s")
        self.stdout.write(
            f"A cold switch takes {figures['cold_to_fresh_process']:.2f} times a fresh process,"
            f" a warm one {figures['warm_to_fresh_process']:.3f} times."
        )
