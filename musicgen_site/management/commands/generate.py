"""`manage.py generate PROMPT --out FILE`: one take from the command line, with or without a server running."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser

from adapters.services.shipped import import_shipped
from generation import audio_files, cards
from generation.clips.decoding import ClipRefused
from generation.database import in_database
from generation.dispatcher import Dispatcher
from generation.models import Job, JobStatus, Take
from generation.services import jobs, takes
from generation.services.adapter_names import wish_of
from generation.services.clips import clip_named
from generation.services.hosts import running_host
from generation.services.refusals import GenerationRefused
from generation.services.submission import GenerationRequest, submit_job
from generation.services.verification import Comparison, NotVerifiable, compare, request_to_make_again
from musicgen_site.access import get_owner
from musicgen_site.database import prepare_database
from musicgen_site.progress_line import ProgressLine
from registry.media import MEDIA_AWAY, MediaAway, OpenedMedia, probe

#: The row is read this often, in seconds.
LOOK_EVERY = 0.1
#: A server that fell silent is given this long before this command makes the take itself, in seconds.
PATIENCE = 15.0


class Command(BaseCommand):
    """Uses the page's own service and validation; the take also stands in the library."""

    help = "Make one take from a prompt and write it to a file."
    # `serve` checks the site; importing every page to do so again takes longer than the work.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """The studio's form, as options."""
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("prompt", nargs="?", help="What the music should sound like.")
        what.add_argument(
            "--verify",
            type=int,
            metavar="TAKE",
            help="Make that take once more from its recipe, and say whether it is identical or where it departs.",
        )
        parser.add_argument("--duration", type=float, metavar="S", help="Length in seconds.")
        parser.add_argument(
            "--extend",
            action="store_true",
            help="Let the take be longer than the model makes in one piece: it is made in overlapping windows.",
        )
        parser.add_argument("--model", metavar="ID", help="Model id; the default is the active model.")
        parser.add_argument(
            "--seed", type=int, metavar="N", help="0 to 4294967295; the default is a new one."
        )
        parser.add_argument("--guidance-scale", type=float, metavar="F", help="1 to 20, default 3.")
        parser.add_argument("--temperature", type=float, metavar="F", help="0.05 to 5, default 1.")
        parser.add_argument("--top-k", type=int, metavar="N", help="0 to 2048, default 250; 0 turns it off.")
        parser.add_argument("--top-p", type=float, metavar="F", help="0 to 1, default 0; 0 turns it off.")
        parser.add_argument(
            "--continue",
            type=int,
            metavar="TAKE",
            dest="continue_take",
            help="Go on from that take: --duration is what is added.",
        )
        parser.add_argument(
            "--continue-clip",
            metavar="FILE",
            help="Go on from a sound file of this machine, or from the clip of that number.",
        )
        parser.add_argument(
            "--continue-from",
            type=float,
            metavar="S",
            help="From which second of that take or clip on; the default is its end.",
        )
        parser.add_argument(
            "--melody-clip",
            metavar="FILE",
            help="Follow the melody of a sound file of this machine, or of the clip of that number: melody models can.",
        )
        parser.add_argument(
            "--adapter",
            action="append",
            default=[],
            metavar="NAME",
            help='Adapter to use, by name or number, with its strength after a colon: "Jazz v1.0:0.8". Repeatable.',
        )
        parser.add_argument(
            "--out", metavar="FILE", help="File to write: .wav, .flac, .ogg or .mp3. Needed with a prompt."
        )
        parser.add_argument("--user", metavar="NAME", help="Shared mode: whose library the take goes to.")
        parser.add_argument("--json", action="store_true", help="Print one JSON object.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Make the take. Raises CommandError with the same sentences as page and API."""
        as_json: bool = options["json"]
        if options["verify"] is not None:
            self._verify(options["verify"], as_json)
            return
        if not options["out"]:
            self._give_up(as_json, "Say with --out FILE where the take is to be written.", "NO_FILE")
        try:
            target, wanted = _target(options["out"])
            prepare_database(settings.STUDIO)
            probe()
            if options["adapter"]:
                import_shipped()
            owner = _owner(options["user"])
            clip, melody = (
                None if options[name] is None else clip_named(options[name], owner=owner)
                for name in ("continue_clip", "melody_clip")
            )
            job = submit_job(
                owner=owner,
                request=GenerationRequest(
                    prompt=options["prompt"],
                    duration_seconds=options["duration"],
                    model_id=options["model"],
                    seed=options["seed"],
                    guidance_scale=options["guidance_scale"],
                    temperature=options["temperature"],
                    top_k=options["top_k"],
                    top_p=options["top_p"],
                    extend=options["extend"],
                    continue_take=options["continue_take"],
                    continue_clip=clip,
                    continue_from_seconds=options["continue_from"],
                    melody_clip=melody,
                    adapters=tuple(wish_of(text) for text in options["adapter"]),
                ),
            )
        except audio_files.UnknownFormat as problem:
            self._give_up(as_json, str(problem), "UNKNOWN_FORMAT")
        except ClipRefused as refused:
            self._give_up(as_json, str(refused), refused.code)
        except GenerationRefused as refused:
            self._give_up(as_json, str(refused), refused.first.code)
        except MediaAway as problem:
            self._give_up(as_json, problem.in_full, MEDIA_AWAY)
        job = asyncio.run(self._follow(job.pk))
        take = Take.objects.filter(job=job).order_by("variation").first()
        if job.status == JobStatus.FAILED:
            self._give_up(as_json, job.error_message, job.error_code)
        if take is None:
            self._give_up(as_json, "Cancelled before anything was made.", "CANCELLED", status=130)
        opened = takes.opened_in_format(take, wanted)
        try:
            _copy(opened, target)
        except OSError as problem:
            self._give_up(
                as_json,
                f"{target} cannot be written ({problem.strerror or problem}). The take is in the library as number {take.pk}.",
                "FILE_NOT_WRITTEN",
            )
        facts = {
            "path": str(target),
            "duration_seconds": take.duration_seconds,
            "sample_rate": take.sample_rate,
            "channels": take.channels,
            "frames": take.frames,
            "seed": take.seed,
            "model": take.model_id,
            "format": wanted.name,
            "partial": take.is_partial,
            "take": take.pk,
            "render_seconds": round(take.render_seconds, 3),
            "recipe": take.recipe,
        }
        if as_json:
            self.stdout.write(json.dumps(facts))
        else:
            self.stdout.write(
                f"{target}: {take.duration_seconds:.3f} s, {take.sample_rate} Hz, seed {take.seed}, {take.model_name}"
            )
        if job.status == JobStatus.CANCELLED:
            sys.exit(130)

    def _verify(self, number: int, as_json: bool) -> None:
        """Make a take again and compare. Ends with status 1 where it departs. What was made for it is removed."""
        try:
            prepare_database(settings.STUDIO)
            probe()
            take = Take.objects.kept().filter(pk=number).first() if 0 < number < 2**63 else None
            if take is None:
                self._give_up(as_json, f"There is no take with the number {number}.", "TAKE_NOT_FOUND")
            job = submit_job(owner=take.owner, request=request_to_make_again(take))
        except GenerationRefused as refused:
            self._give_up(as_json, str(refused), refused.first.code)
        except NotVerifiable as problem:
            self._give_up(as_json, str(problem), "NOT_VERIFIABLE")
        except MediaAway as problem:
            self._give_up(as_json, problem.in_full, MEDIA_AWAY)
        job = asyncio.run(self._follow(job.pk))
        again = Take.objects.filter(job=job).first()
        try:
            if job.status != JobStatus.FINISHED or again is None:
                self._give_up(
                    as_json, job.error_message or "Cancelled before its end.", job.error_code or "CANCELLED"
                )
            with tempfile.TemporaryDirectory(prefix="musicgen-verify-") as folder:
                files = []
                for each in (take, again):
                    files.append(Path(folder) / f"{each.pk}.wav")
                    _copy(takes.opened_in_format(each, audio_files.audio_format("wav")), files[-1])
                found = compare(take, files[0], again, files[1])
        except takes.TakeFileMissing as problem:
            self._give_up(as_json, str(problem), "FILE_MISSING")
        finally:
            if again is not None:
                takes.remove_take(again, Take.objects.all())
            jobs.dismiss_job(job)
        self._tell_verified(take, found, as_json)

    def _tell_verified(self, take: Take, found: Comparison, as_json: bool) -> None:
        is_identical = found.departs_at is None
        if as_json:
            facts = {
                "take": take.pk,
                "identical": is_identical,
                "departs_at_seconds": found.departs_at,
                "largest_difference": found.largest,
                "changed": list(found.changed),
            }
            self.stdout.write(json.dumps(facts))
        elif is_identical:
            self.stdout.write(f"Take {take.pk} is identical.")
        else:
            self.stdout.write(
                f"Take {take.pk} departs after {found.departs_at:.3f} s; the largest difference is"
                f" {found.largest:.4f} of full scale."
            )
        if not as_json and found.changed:
            self.stdout.write("What else is different: " + "; ".join(found.changed) + ".")
        if not is_identical:
            sys.exit(1)

    def _give_up(self, as_json: bool, sentence: str, code: str, *, status: int = 1) -> NoReturn:
        if as_json:
            self.stdout.write(json.dumps({"error": sentence, "error_code": code}))
        raise CommandError(sentence, returncode=status)

    async def _follow(self, job_id: int) -> Job:
        """Watch the row until the job has ended; work on it here when nobody else does. Ctrl+C cancels it."""
        show = ProgressLine(self.stderr)
        dispatcher: Dispatcher | None = None
        working: asyncio.Task[None] | None = None
        alone_since = 0.0
        loop = asyncio.get_running_loop()
        interrupted = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupted.set)
        asked = False
        try:
            while True:
                job: Job
                job, line, percent = await in_database(_look)(job_id)
                show(line, percent)
                if not job.is_unfinished:
                    return job
                if interrupted.is_set() and not asked:
                    asked = True
                    await in_database(jobs.request_cancel)(job)
                if working is None and await in_database(running_host)() is None:
                    # At the start nobody is there; later a server that was working may only be slow to answer.
                    alone_since = alone_since or time.monotonic()
                    waited = time.monotonic() - alone_since
                    if job.status == JobStatus.QUEUED or waited > PATIENCE:
                        dispatcher = Dispatcher(only_job=job_id)
                        # Its news would be drawn through the progress line.
                        logging.getLogger("generation").setLevel(logging.WARNING)
                        working = asyncio.create_task(dispatcher.run())
                await asyncio.sleep(LOOK_EVERY)
        finally:
            show.close()
            if dispatcher is not None and working is not None:
                await dispatcher.stop()
                await asyncio.gather(working, return_exceptions=True)


def _look(job_id: int) -> tuple[Job, str, float | None]:
    job = Job.objects.select_related("model").get(pk=job_id)
    card = cards.card_of(job)
    return job, card.status_line, card.percent


def _target(out: str) -> tuple[Path, audio_files.AudioFormat]:
    """Where to write and in which format. Raises UnknownFormat, CommandError."""
    path = Path(out).expanduser()
    wanted = audio_files.audio_format(path.suffix.lstrip("."))
    if not path.parent.is_dir():
        raise CommandError(f"The folder {path.parent} does not exist. Make it first, or choose another.")
    if path.is_dir():
        raise CommandError(f"{path} is a folder. Name a file in it.")
    if not os.access(path.parent, os.W_OK):
        raise CommandError(f"The folder {path.parent} cannot be written to. Choose another.")
    return path.absolute(), wanted


def _owner(name: str | None) -> Any:
    if settings.STUDIO.access == "local":
        if name:
            raise CommandError("In local mode there is one owner, so --user is not needed.")
        return get_owner()
    people = get_user_model().objects.filter(is_active=True)
    if not name:
        raise CommandError("In shared mode every take belongs to somebody. Say who with --user NAME.")
    person = people.filter(username=name).first()
    if person is None:
        raise CommandError(
            f"There is no user '{name}'. Make one with `manage.py createsuperuser` or in the admin."
        )
    return person


def _copy(opened: OpenedMedia, target: Path) -> None:
    """Whole or not at all: written beside the target, then renamed."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with (
            contextlib.closing(opened),
            contextlib.closing(opened.stream()) as source,
            partial.open("wb") as output,
        ):
            shutil.copyfileobj(source, output)
        partial.replace(target)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
