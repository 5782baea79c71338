"""`manage.py generate` as people call it: a process of its own, with and without a server."""

import contextlib
import hashlib
import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import soundfile
from django.core.management import CommandError, call_command

from generation.audio_files import read_recipe
from tests.adapters import made
from tests.conftest import ROOT, RunningStudio, environment_for, running_studio, wait_until
from tests.site.test_studio_settings import manage
from tests.slow_model import make_demo_slow

pytestmark = pytest.mark.slow

PATIENCE = 240


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A studio's environment for the whole module: commands that render share its home."""
    return environment_for(tmp_path_factory.mktemp("studio") / "home")


@pytest.fixture(scope="module")
def served(environment: dict[str, str]) -> Iterator[RunningStudio]:
    """A server in that home, with its engine: commands beside it need none of their own."""
    with running_studio(environment) as studio:
        yield studio


def generate(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "manage.py", "generate", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def facts_of(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one JSON object that --json prints, and nothing else."""
    assert ended.returncode == 0, ended.stderr
    facts: dict[str, Any] = json.loads(ended.stdout)
    return facts


def runners() -> list[psutil.Process]:
    """Runners that outlived their studio: children of nobody, or of this process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        if "generation.engine" in " ".join(process.cmdline()):
            found.append(process)
    return found


def test_twice_the_same_command_makes_the_same_bytes(environment: dict[str, str], tmp_path: Path) -> None:
    """On an empty home: no server, no database, no download."""
    made = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.wav"
        ended = generate(
            "slow piano",
            "--duration",
            "2",
            "--seed",
            "7",
            "--out",
            str(path),
            "--json",
            environment=environment,
        )
        facts = facts_of(ended)
        assert facts["path"] == str(path)
        assert (facts["duration_seconds"], facts["frames"], facts["seed"]) == (2.0, 100, 7)
        assert (facts["sample_rate"], facts["channels"], facts["model"]) == (16000, 1, "musicgen-demo")
        assert soundfile.info(path).frames == 2 * 16000
        made.append(hashlib.sha256(path.read_bytes()).hexdigest())
    assert made[0] == made[1]
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []
    assert runners() == []


def test_options_and_format_reach_the_file(served: RunningStudio, tmp_path: Path) -> None:
    path = tmp_path / "a.MP3"
    ended = generate(
        "drums", "--duration=1.5", "--extend", "--seed=1", "--guidance-scale=1", "--temperature=0.9", "--top-k=20",
        "--top-p=0.3", "--model=musicgen-studio/musicgen-demo", f"--out={path}",
        environment={**served.environment, "MUSICGEN_MAX_DURATION_SECONDS": "musicgen-demo=1",
                     "MUSICGEN_MAX_EXTENDED_SECONDS": "musicgen-demo=2"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(f"{path}: 1.500 s, 16000 Hz, seed 1, MusicGen Demo")
    recipe = read_recipe(path)
    wanted = {"prompt": "drums", "duration_seconds": 1.5, "window_seconds": 1, "stride_seconds": 0.6, "seed": 1,
              "guidance_scale": 1.0, "temperature": 0.9, "top_k": 20, "top_p": 0.3, "model": "musicgen-demo"}  # fmt: skip
    assert {name: recipe[name] for name in wanted} == wanted


def test_adapters_are_named_as_people_know_them(served: RunningStudio, tmp_path: Path) -> None:
    environment = served.environment
    folder = made.make_adapter(ROOT / "registry" / "checkpoints" / "musicgen-demo", tmp_path / "adapter")
    wanted = ["slow piano", "--duration=0.5", "--seed=1", "--json"]
    assert generate(*wanted, f"--out={tmp_path / 'first.wav'}", environment=environment).returncode == 0
    imported = manage(
        "import_adapter", str(folder), "--name=Jazz", "--base-model=musicgen-demo", environment=environment
    )
    assert imported.returncode == 0, imported.stderr
    for name, adapter in (("silent", "jazz:0"), ("jazz", "Jazz v1.0:0.8")):
        ended = generate(
            *wanted, "--adapter", adapter, f"--out={tmp_path / f'{name}.wav'}", environment=environment
        )
        recipe = facts_of(ended)["recipe"]
    first, silent, jazz = (
        soundfile.read(tmp_path / f"{name}.wav", dtype="int16")[0].tobytes()
        for name in ("first", "silent", "jazz")
    )
    assert first == silent != jazz
    assert [(used["name"], used["strength"]) for used in recipe["adapters"]] == [("Jazz", 0.8)]
    ended = generate(*wanted, "--adapter=Polka", f"--out={tmp_path / 'a.wav'}", environment=environment)
    assert ended.returncode == 1
    assert json.loads(ended.stdout) == {
        "error": "There is no adapter 'Polka'. There are: Jazz v1.0.",
        "error_code": "ADAPTER_NOT_FOUND",
    }


def test_too_long_exits_with_the_sentence(environment: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    ended = generate(
        "slow piano",
        "--duration",
        "45",
        "--model",
        "musicgen-small",
        "--out",
        str(path),
        environment={**environment, "MUSICGEN_MAX_EXTENDED_SECONDS": "musicgen-small=0"},
    )
    assert ended.returncode == 1
    assert ended.stderr.strip() == "CommandError: Duration 45s exceeds model limit of 30s"
    assert ended.stdout == ""
    assert not path.exists()


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("a.opus", "'opus' is not a format. Choose one of: wav, flac, ogg, mp3."),
        ("a", "'' is not a format. Choose one of: wav, flac, ogg, mp3."),
        ("missing/a.wav", "does not exist. Make it first, or choose another."),
        ("folder.wav", "is a folder. Name a file in it."),
    ],
)
def test_a_bad_file_name_is_refused_before_any_work(
    out: str, sentence: str, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(CommandError, match=re.escape(sentence)):
        call_command("generate", "slow piano", "--out", str(tmp_path / out))
    assert not home.exists(), "nothing was prepared for it"


def test_an_option_that_is_no_number_is_refused(studio_environment: dict[str, str], tmp_path: Path) -> None:
    ended = generate(
        "piano", "--duration", "five", "--out", str(tmp_path / "a.wav"), environment=studio_environment
    )
    assert ended.returncode == 2
    assert "--duration: invalid float value: 'five'" in ended.stderr


@pytest.mark.django_db
def test_shared_mode_asks_whose_it_is(shared_mode: None, home: Path, tmp_path: Path) -> None:
    arguments = ["generate", "slow piano", "--out", str(tmp_path / "a.wav")]
    with pytest.raises(CommandError, match=r"Say who with --user NAME\."):
        call_command(*arguments)
    with pytest.raises(CommandError, match=r"There is no user 'nobody'\."):
        call_command(*arguments, "--user", "nobody")


@pytest.mark.django_db
def test_local_mode_needs_no_user(home: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="--user is not needed"):
        call_command("generate", "slow piano", "--out", str(tmp_path / "a.wav"), "--user", "alice")


def test_an_old_database_is_named(studio_environment: dict[str, str], tmp_path: Path) -> None:
    assert manage("migrate", "registry", "0001", environment=studio_environment).returncode == 0
    for ended in (
        generate("slow piano", "--out", str(tmp_path / "a.wav"), environment=studio_environment),
        manage("serve", "--port", "0", environment=studio_environment),
    ):
        assert ended.returncode == 1
        assert "The database is from an older release." in ended.stderr
        assert "`manage.py migrate`" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_ctrl_c_keeps_what_was_made(
    prepared_environment: dict[str, str], slow_checkpoint: Path, tmp_path: Path
) -> None:
    environment = prepared_environment
    make_demo_slow(environment, slow_checkpoint)
    path = tmp_path / "a.wav"
    arguments = ["slow piano", "--duration=20", "--seed=3", f"--out={path}", "--json"]
    process = subprocess.Popen(
        [sys.executable, "manage.py", "generate", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: _frames_done(environment) >= 20, seconds=PATIENCE, what="progress")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    facts = json.loads(out)
    assert facts["partial"] is True
    assert 20 <= facts["frames"] < 1000
    assert soundfile.info(path).duration == pytest.approx(facts["duration_seconds"])


def _frames_done(environment: dict[str, str]) -> int:
    """Frames of the newest job of that home."""
    database = Path(environment["MUSICGEN_HOME"]) / "studio.sqlite3"
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5) as connection:
        row = connection.execute("SELECT frames_done FROM generation_job WHERE status = 'running'").fetchone()
    return int(row[0]) if row else 0


def test_with_a_server_its_engine_does_the_work(served: RunningStudio, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    children = psutil.Process(served.process.pid).children
    wait_until(lambda: bool(children(recursive=True)), seconds=PATIENCE, what="the server's runner")
    process = subprocess.Popen(
        [
            sys.executable,
            "manage.py",
            "generate",
            "slow piano",
            "--duration=1",
            f"--out={path}",
            "--json",
        ],
        cwd=ROOT,
        env=served.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    own_runners = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.poll() is None:
            own_runners += len(psutil.Process(process.pid).children())
            time.sleep(0.1)
    assert process.stdout is not None
    facts = json.loads(process.stdout.read())
    assert process.returncode == 0
    assert own_runners == 0, "the command started no runner of its own"
    assert facts["duration_seconds"] == 1.0
    with urllib.request.urlopen(f"{served.url}api/takes/{facts['take']}", timeout=30) as answer:
        assert json.load(answer)["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
