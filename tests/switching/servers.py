"""Studios in processes of their own with dwarf models, and what is left when one is killed."""

import json
import shutil
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.conftest import Prepare, RunningStudio, environment_for, running_studio, wait_until
from tests.site.test_serve import runners_of
from tests.site.test_studio_settings import manage
from tests.switching.models import PATIENCE

_ADD_MODELS = """
from registry.models import ModelConfig
from registry.services import activate_model
for name, facts in {models!r}.items():
    ModelConfig.objects.create(
        pk=name, display_name=name.title(), max_duration_seconds=30, recommended_duration_seconds=1,
        sample_rate=800, **{{"hf_model_id": f"studio/{{name}}", "vram_requirement_gb": 0.1, **facts}},
    )
activate_model({active!r})
"""


def make_home(prepared: Prepare, home: Path, models: dict[str, dict[str, Any]], *, active: str) -> Path:
    """A studio's home with these models beside the catalogue's."""
    code = _ADD_MODELS.format(models=models, active=active)
    ended = manage("shell", "-v0", "-c", code, environment=prepared(home))
    assert ended.returncode == 0, ended.stderr
    return home


def copy_home(home: Path, to: Path) -> dict[str, str]:
    """A copy of a home, and the environment of a studio in it."""
    shutil.copytree(home, to)
    return {**environment_for(to), "OMP_NUM_THREADS": "1"}


def ask(studio: RunningStudio, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """GET, or POST of that body, to the API; the answer must not be a refusal."""
    request = urllib.request.Request(f"{studio.url}api/{path}", headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(
            request, None if body is None else json.dumps(body).encode(), timeout=60
        ) as answer:
            facts: dict[str, Any] = json.load(answer)
            return facts
    except urllib.error.HTTPError as refused:
        raise AssertionError((path, refused.code, refused.read())) from refused


def last_switch(home: Path) -> dict[str, Any]:
    """The newest switch in the rows."""
    return rows(home, "SELECT * FROM registry_modelswitch ORDER BY id DESC LIMIT 1")[0]


def active_models(home: Path) -> list[str]:
    """What is active in the rows: always one."""
    return [row["id"] for row in rows(home, "SELECT id FROM registry_modelconfig WHERE is_active")]


def rows(home: Path, query: str) -> list[dict[str, Any]]:
    """Rows of a studio's database, whether it runs or not."""
    with closing(sqlite3.connect(home / "studio.sqlite3", timeout=30)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(query)]


def until_stage(home: Path, *stages: str) -> dict[str, Any]:
    """Wait until the newest switch is in one of these stages, or fail once it has ended otherwise."""

    def there() -> bool:
        stage = last_switch(home)["stage"]
        return stage in stages or stage in ("ready", "failed", "cancelled")

    wait_until(there, seconds=PATIENCE, what=f"a switch becoming {stages}")
    switch = last_switch(home)
    assert switch["stage"] in stages, (switch["stage"], switch["message"], switch["error_detail"])
    return switch


def assert_plays(studio: RunningStudio, model_id: str) -> None:
    """That model is the one active one, and a job finishes with it."""
    assert active_models(studio.home) == [model_id]
    assert ask(studio, "models")["current_model"] == model_id
    job = ask(studio, "generations", {"prompt": "piano", "duration_seconds": 0.1})
    until_finished(studio, job["id"], model_id)


def until_finished(studio: RunningStudio, job_id: int, model_id: str) -> dict[str, Any]:
    """Wait until the job has its take."""
    ends = ("finished", "failed", "cancelled")
    wait_until(
        lambda: ask(studio, f"generations/{job_id}")["status"] in ends, seconds=PATIENCE, what="a job's end"
    )
    job = ask(studio, f"generations/{job_id}")
    assert job["status"] == "finished", job["error"]
    assert [take["model"] for take in job["takes"]] == [model_id]
    return job


#: Runs `manage.py` with a switch that stays in the stage named by HOLD_IN.
HELD_MANAGE = str(Path(__file__).with_name("held_manage.py"))


@contextmanager
def served(
    environment: dict[str, str], *, hold_in: str = "", options: Sequence[str] = ()
) -> Iterator[RunningStudio]:
    """A running studio. With `hold_in` a switch stays in that stage until it is stopped."""
    script = [HELD_MANAGE] if hold_in else []
    environment = {**environment, **({"HOLD_IN": hold_in} if hold_in else {})}
    with running_studio(environment, python_options=script, options=options) as studio:
        yield studio


def kill(studio: RunningStudio) -> None:
    """As the kernel does when memory is short. Its runners end by themselves."""
    runners = runners_of(studio)
    studio.process.kill()
    studio.process.wait(timeout=30)
    assert_gone(runners)


def terminate(studio: RunningStudio) -> None:
    """As a service manager does. It ends in time, without an error, and its runners with it."""
    runners = runners_of(studio)
    studio.process.terminate()
    assert studio.process.wait(timeout=30) == 0
    assert_gone(runners)
    assert not [line for line in studio.log if "Traceback" in line], "".join(studio.log)


def assert_gone(runners: list[psutil.Process]) -> None:
    """None of these processes is left."""
    wait_until(
        lambda: not any(runner.is_running() and runner.status() != "zombie" for runner in runners),
        seconds=60,
        what="the end of its runners",
    )
