"""A studio of many processes: PostgreSQL, Redis, web processes and engine hosts, all of them real and supervised."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.chaos.services import Service, as_postgres, until
from tests.conftest import _postgres_programs, bring_kernels, environment_for, free_port
from tests.engine.dwarf import build_dwarf
from tests.site.test_studio_settings import manage
from tests.switching.servers import _ADD_MODELS

#: Models that the studio plays; jobs go to either.
MODELS = ("one", "two")
#: Long enough for a busy machine to start everything.
PATIENCE = 180.0

#: Every change of a job's status, written by the database itself: what no process of the studio can colour.
WITNESS = """
CREATE TABLE job_changes (id bigserial, job bigint, was text, became text, at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO job_changes (job, was, became) VALUES (NEW.id, OLD.status, NEW.status); RETURN NEW; END $$;
CREATE TRIGGER note_change AFTER UPDATE OF status ON generation_job FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION note_change();
"""


@dataclass
class World:
    """The running studio. `webs` and `hosts` are its processes, `urls` where the webs listen."""

    home: Path
    database: str
    postgres: Service
    redis: Service
    environment: dict[str, str]
    webs: list[Service] = field(default_factory=list)
    hosts: list[Service] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)

    @property
    def services(self) -> list[Service]:
        """All of them."""
        return [self.postgres, self.redis, *self.webs, *self.hosts]

    def rows(self, query: str, *arguments: Any) -> list[dict[str, Any]]:
        """Rows of the database. Raises psycopg.OperationalError while it is away."""
        with psycopg.connect(
            self.database, autocommit=True, row_factory=psycopg.rows.dict_row, connect_timeout=5
        ) as connection:
            found = connection.execute(query, arguments)
            return found.fetchall() if found.description else []

    def ask(self, web: int, path: str, body: dict[str, Any] | None = None, timeout: float = 15) -> Any:
        """GET, or POST of that body, to the API of one web process. Raises OSError."""
        request = urllib.request.Request(
            f"{self.urls[web]}/api/{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return json.load(answer)

    def is_ready(self, web: int) -> bool:
        """Whether that web process can serve, and an engine lives."""
        try:
            with urllib.request.urlopen(f"{self.urls[web]}/readyz", timeout=5) as answer:
                return bool(json.load(answer)["checks"]["engine"]["ok"])
        except (OSError, ValueError):
            return False


@contextmanager
def running_world(
    *,
    webs: int = 2,
    hosts: int = 2,
    settings: dict[str, str] | None = None,
    kernels: Path | None = None,
    say: Any = lambda line: None,
) -> Iterator[World]:
    """Start it all, and end it all."""
    with tempfile.TemporaryDirectory(prefix="musicgen-chaos-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        logs = folder / "logs"
        logs.mkdir()
        postgres, database = _postgres(folder, logs)
        redis, redis_url = _redis(folder, logs)
        environment = {
            **environment_for(folder / "home"),
            "DATABASE_URL": database,
            "REDIS_URL": redis_url,
            "MUSICGEN_LOG_FORMAT": "json",
            "MUSICGEN_MAX_QUEUED_JOBS": "100000",
            "HF_HOME": str(folder / "hub"),
            **(settings or {}),
        }
        world = World(folder / "home", database, postgres, redis, environment)
        world.home.mkdir()
        if kernels is not None:
            bring_kernels(kernels, world.home)
        try:
            _start(world, folder, logs, webs=webs, hosts=hosts)
            say(f"running: {webs} web, {hosts} engine hosts, PostgreSQL, Redis")
            yield world
        finally:
            for service in [*world.hosts, *world.webs]:
                service.stop()
            redis.stop()
            postgres.stop(number=signal.SIGINT)
            if keep := os.environ.get("CHAOS_KEEP_LOGS"):
                shutil.copytree(logs, keep, dirs_exist_ok=True)


def _start(world: World, folder: Path, logs: Path, *, webs: int, hosts: int) -> None:
    world.redis.start()
    world.postgres.start()
    until(lambda: _answers(world), seconds=PATIENCE, what="PostgreSQL")
    checkpoints = [build_dwarf(folder / name, seed=number) for number, name in enumerate(MODELS)]
    models = {name: {"local_path": str(path)} for name, path in zip(MODELS, checkpoints, strict=True)}
    for arguments in (
        ["migrate", "-v0"],
        ["shell", "-v0", "-c", _ADD_MODELS.format(models=models, active=MODELS[0])],
    ):
        ended = manage(*arguments, environment=world.environment)
        assert ended.returncode == 0, ended.stderr
    world.rows(WITNESS)
    python = [sys.executable, "manage.py"]
    for number in range(webs):
        port = free_port()
        world.urls.append(f"http://127.0.0.1:{port}")
        serve = [*python, "serve", "--no-engine", "--port", str(port)]
        name = f"web{number + 1}"
        world.webs.append(Service(name, serve, world.environment, logs / f"{name}.log"))
    for number in range(hosts):
        name = f"host{number + 1}"
        work = [*python, "runworker", "generation"]
        world.hosts.append(Service(name, work, world.environment, logs / f"{name}.log"))
    for service in [*world.webs, *world.hosts]:
        service.start()
    for web in range(webs):
        until(lambda web=web: world.is_ready(web), seconds=PATIENCE, what=f"web {web + 1}")  # type: ignore[misc]


def _answers(world: World) -> bool:
    try:
        return bool(world.rows("SELECT 1"))
    except psycopg.OperationalError:
        return False


def _postgres(folder: Path, logs: Path) -> tuple[Service, str]:
    programs = _postgres_programs()
    assert programs is not None, "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    place = folder / "postgres"
    place.mkdir()
    account = as_postgres()
    if account:
        shutil.chown(place, "postgres", "postgres")
    cluster = place / "cluster"
    initialise = [str(programs / "initdb"), "-D", str(cluster), "-U", "postgres", "-A", "trust", "-E", "UTF8"]
    subprocess.run(
        [*initialise, "--locale", "C.UTF-8", "--no-sync"],
        check=True,
        capture_output=True,
        cwd=place,
        **account,
    )
    port = free_port()
    arguments = [str(programs / "postgres"), "-D", str(cluster), "-k", str(place), "-p", str(port)]
    # Without fsync only the machine's own fall could lose what was written, not that of a process.
    arguments += ["-h", "127.0.0.1", "-c", "fsync=off", "-c", "log_min_messages=fatal"]
    arguments += ["-c", "compute_query_id=on", "-c", "track_activities=on"]
    service = Service(
        "postgres", arguments, dict(os.environ), logs / "postgres.log", {"cwd": place, **account}
    )
    return service, f"postgres://postgres@127.0.0.1:{port}/postgres"


def _redis(folder: Path, logs: Path) -> tuple[Service, str]:
    program = shutil.which("redis-server")
    assert program is not None, "redis-server is not installed (Debian: apt-get install redis-server)"
    port = free_port()
    place = folder / "redis"
    place.mkdir()
    arguments = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(place)]
    service = Service(
        "redis",
        [*arguments, "--save", "", "--appendonly", "no"],
        dict(os.environ),
        logs / "redis.log",
        {"cwd": place},
    )
    return service, f"redis://127.0.0.1:{port}/0"
