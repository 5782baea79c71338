"""`manage.py benchmark NAME`: figures of this machine, as ratios measured in one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from musicgen_site.benchmarks import adapters, engine, load, memory, switching

BENCHMARKS = {
    "engine": engine.run,
    "switching": switching.run,
    "adapters": adapters.run,
    "memory": memory.run,
    "load": load.run,
}


class Command(BaseCommand):
    """Runs one of the benchmarks: `engine` steps, `switching` of models, `adapters`, `memory` figures, `load` of people."""

    help = (
        "Measure this machine: the engine's steps beside transformers' generate; switching models, cold and warm, "
        "beside a fresh process; changing adapters "
        "beside reloading the checkpoint; memory figures of very large models beside accelerate's; or pages, "
        "sockets and jobs of many people at once."
    )
    # `serve` checks the site; importing every page to do so again takes longer than the work.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Options."""
        parser.add_argument("name", choices=list(BENCHMARKS), help="What to measure.")
        parser.add_argument("--rounds", type=int, default=3, help="How often; the median is told.")
        parser.add_argument(
            "--checkpoint", type=Path, help="Checkpoint folder to load instead of a made one."
        )
        parser.add_argument("--json", action="store_true", help="Print one JSON object.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Measure and print."""
        figures = BENCHMARKS[options["name"]](
            rounds=max(1, options["rounds"]), checkpoint=options["checkpoint"], say=self.stderr.write
        )
        if options["json"]:
            self.stdout.write(json.dumps(figures))
            return
        if options["name"] == "memory":
            self._tell_memory(figures)
            return
        if options["name"] == "load":
            self._tell_load(figures)
            return
        self.stdout.write(f"{figures['hardware']}, checkpoint of {figures['checkpoint_bytes'] / 1e9:.2f} GB")
        tell = {
            "engine": self._tell_engine,
            "switching": self._tell_switching,
            "adapters": self._tell_adapters,
        }
        tell[options["name"]](figures)

    def _tell_engine(self, figures: dict[str, Any]) -> None:
        self.stdout.write(
            f"{figures['threads']} threads, {figures['kernels']} kernels;"
            f" memory is read at {figures['bandwidth_gb_per_second'][0]} to {figures['bandwidth_gb_per_second'][-1]} GB/s"
        )
        for dtype, told in figures["library"].items():
            self.stdout.write(f"transformers, {dtype}: {told['steps_per_second']} steps a second")
        for told in figures["engine"]:
            self.stdout.write(
                f"engine, {told['dtype']}, {told['takes']} at once: {told['steps_per_second']} steps a second, of all"
                f" {told['steps_per_second_of_all']}; {told['times_library']} times transformers' best,"
                f" weights and caches read at {told['share_of_bandwidth']:.0%} of what memory gives"
            )
        for dtype, slower in figures["second_take_slows_the_first"].items():
            self.stdout.write(
                f"A second take slows the first by {slower['middle']:.1%} in {dtype}, {slower['start']:.1%} at its start."
            )
        self.stdout.write(
            f"The codec takes {figures['codec_seconds_per_audio_second']} s for a second of sound."
        )
        for dtype, seconds in figures["first_sound_seconds"].items():
            self.stdout.write(f"First sound after {seconds} s in {dtype}.")

    def _tell_switching(self, figures: dict[str, Any]) -> None:
        for name in ("cold_seconds", "warm_seconds", "fresh_process_seconds"):
            self.stdout.write(f"{name.removesuffix('_seconds').replace('_', ' '):>14}: {figures[name]} s")
        self.stdout.write(
            f"A cold switch takes {figures['cold_to_fresh_process']:.2f} times a fresh process,"
            f" a warm one {figures['warm_to_fresh_process']:.3f} times."
        )

    def _tell_load(self, figures: dict[str, Any]) -> None:
        self.stdout.write(figures["hardware"])
        self.stdout.write(
            f"{figures['sockets']} open sockets and {figures['jobs']} queued jobs, {figures['seconds']} s:"
            f" 95 of 100 pages within {figures['page_p95_seconds']} s, answers of the API within"
            f" {figures['api_p95_seconds']} s ({figures['probes']} of each)."
        )
        self.stdout.write(
            f"{figures['messages']} messages, {figures['messages_lost']} of {figures['takes_to_tell']} takes not told,"
            f" {figures['sockets_opened_again']} sockets opened again; the web process held"
            f" {figures['web_bytes'] / 1e6:.0f} MB at most."
        )
        self.stdout.write(
            f"Jobs a minute: {figures['jobs_per_minute_1']} with one engine host,"
            f" {figures['jobs_per_minute_2']} with two."
        )

    def _tell_adapters(self, figures: dict[str, Any]) -> None:
        self.stdout.write(
            f"adapters of {figures['adapter_bytes'] / 1e6:.1f} MB, rank {figures['adapter_rank']}"
        )
        lines = {
            "first adapter attached": "first_use_seconds",
            "another attached": "change_seconds",
            "checkpoint reloaded": "reload_seconds",
            "first frame with another": "change_to_frame_seconds",
            "first frame after reload": "reload_to_frame_seconds",
            "half a second without": "frames_seconds_without",
            "half a second with one": "frames_seconds_with",
        }
        for words, name in lines.items():
            self.stdout.write(f"{words:>26}: {figures[name]} s")
        self.stdout.write(
            f"From one adapter to another takes {figures['change_to_reload']:.3f} times reloading the checkpoint,"
            f" {figures['change_to_reload_with_frame']:.2f} times with the first frame of the next take."
            f" Frames with one take {figures['with_to_without']:.2f} times as long as without."
        )

    def _tell_memory(self, figures: dict[str, Any]) -> None:
        self.stdout.write(figures["hardware"])
        lines = {
            "first answer, process started for it": "first_seconds",
            "the other model next": "next_seconds",
            "the same again": "again_seconds",
            "processor's time of the first": "first_processor_seconds",
            "and of the next": "next_processor_seconds",
            "accelerate estimate-memory": "accelerate_first_seconds",
            "processor's time of it": "accelerate_first_processor_seconds",
            "accelerate, the other model next": "accelerate_next_seconds",
        }
        for name, told in figures["models"].items():
            self.stdout.write(f"{name}: {told['weight_bytes_float32'] / 1e9:,.1f} GB of weights in float32")
            for words, key in lines.items():
                self.stdout.write(f"{words:>38}: {told[key] or 'no answer'} s")
            if told["first_to_accelerate"] is not None:
                self.stdout.write(
                    f"The first answer takes {told['first_to_accelerate']:.2f} times accelerate's, which says"
                    f" {told['accelerate_bytes_float32'] / 1e9:,.1f} GB: without the head, and nothing of caches."
                )
            if told["next_to_accelerate"] is not None:
                self.stdout.write(f"The next takes {told['next_to_accelerate']:.3f} times accelerate's.")
            if told["accelerate_problem"]:
                self.stdout.write(f"Accelerate failed: {told['accelerate_problem']}")
