"""Fixtures of all tests: the cast, Chromium, private servers, and skips that turn into failures.

Knows no app; what one app's tests share stands in that app's own conftest.
"""

import gc
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
#: Under CI a test that cannot run is a test that fails: a green run means that everything ran.
STRICT = any(os.environ.get(name, "").lower() in {"1", "true", "yes"} for name in ("CI", "STRICT"))


# Torch and all it brings are a million objects that stay. Looking for garbage among them again and again took a fifth
# of the time of all tests.
gc.disable()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let one worker collect before all others: what it compiles they only read.

    In a new environment each would compile torch and all the rest, which takes three times as long as to collect.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ or sys.dont_write_bytecode:
        return (yield)
    # As tests.settings made it, once for all workers.
    shared = Path(os.environ["MUSICGEN_TEST_HOME"])
    with FileLock(shared / "collecting.lock") as turn:
        if (shared / "collected").exists():
            turn.release()
        try:
            return (yield)
        finally:
            (shared / "collected").touch()


def pytest_collection_finish() -> None:
    """What is imported by now is no longer looked at."""
    gc.freeze()
    gc.enable()


# --- Skips and order ---


def pytest_configure() -> None:
    """Let processes that tests start hear Ctrl+C: a shell starts what it puts in the background deaf to it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


#: The browser modules that take longest, longest first.
LONG_JOURNEYS = (
    "test_switch.py",
    "test_accessibility.py",
    "test_make_music.py",
    "test_adapters.py",
    "test_inside.py",
    "test_memory.py",
    "test_library.py",
    "test_browser_security.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put browser tests last: Playwright leaves its event loop running in the main thread.

    Of these and of the others the slow modules come first, so that workers side by side end at about the same time.
    """
    for item in items:
        if {"page", "browser", "context", "new_context"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.browser)
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def turn(item: pytest.Item) -> tuple[bool, int]:
        if not item.get_closest_marker("browser"):
            return False, int(item.path not in slow)
        name = item.path.name
        return True, LONG_JOURNEYS.index(name) if name in LONG_JOURNEYS else len(LONG_JOURNEYS)

    items.sort(key=turn)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under CI or STRICT, report a skipped test as a failed one; only tests marked `gpu` may skip."""
    report = yield
    if STRICT and report.skipped and not hasattr(report, "wasxfail") and not item.get_closest_marker("gpu"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and CI or STRICT is set. {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself as a whole."""
    report = yield
    if STRICT and report.outcome == "skipped":
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped, and CI or STRICT is set. {report.longrepr}"
    return report


# --- The database of a worker ---


@pytest.fixture(scope="session")
def django_db_keepdb() -> bool:
    """Whether there is one already: of SQLite, a copy of the one that is migrated once for all workers."""
    return connection.vendor == "sqlite"


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None,
    django_db_keepdb: bool,
    request: pytest.FixtureRequest,
) -> None:
    """Copy it to where Django looks for it; what was migrated is not migrated again."""
    if django_db_keepdb:
        migrated = request.getfixturevalue("migrated")
        shutil.copy(migrated / "studio.sqlite3", connection.settings_dict["TEST"]["NAME"])


# --- The cast ---


@pytest.fixture
def alice(db: None) -> User:
    """A person who owns things."""
    return User.objects.create_user("alice", password="alice-password")


@pytest.fixture
def bob(db: None) -> User:
    """Another person, with things of his own."""
    return User.objects.create_user("bob", password="bob-password")


@pytest.fixture
def mallory(db: None) -> User:
    """A person who must not."""
    return User.objects.create_user("mallory", password="mallory-password")


@pytest.fixture
def staff(db: None) -> User:
    """A person who may switch models and use the admin."""
    return User.objects.create_user("staff", password="staff-password", is_staff=True, is_superuser=True)


@pytest.fixture
def owner(db: None) -> User:
    """The one user of local mode."""
    from musicgen_site.access import get_owner

    return get_owner()


@pytest.fixture
def locked(db: None) -> str:
    """The id of a model that this release cannot play: MusicGen Stereo Large, as if it had another codec."""
    from registry.models import ModelConfig

    name = "musicgen-stereo-large"
    ModelConfig.objects.filter(pk=name).update(
        is_playable=False, unplayable_reason="Its codec is not a mono EnCodec."
    )
    return name


@pytest.fixture
def shared_mode(settings: Any) -> None:
    """The site as with MUSICGEN_ACCESS=shared: people log in."""
    settings.STUDIO = settings.STUDIO.model_copy(update={"access": "shared"})
    settings.MIDDLEWARE = [
        name.replace("access.OwnerMiddleware", "access.LoginMiddleware") for name in settings.MIDDLEWARE
    ]


# --- Processes ---

#: Makes a studio's home, and answers the environment of a studio in it.
Prepare = Callable[[Path], dict[str, str]]


@pytest.fixture(scope="session")
def slow_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a checkpoint slow enough to be met in the middle of a job."""
    from tests.slow_model import build_slow

    return build_slow(tmp_path_factory.mktemp("slow") / "checkpoint")


@pytest.fixture
def studio_environment(tmp_path: Path) -> dict[str, str]:
    """Environment for a studio in a process of its own, with an empty home under `tmp_path`."""
    return environment_for(tmp_path / "home")


#: What a runner does when it first loads a small model.
COMPILE = """
import sys
from pathlib import Path
from generation.engine.kernels import NoKernels, compiled_kernels
from generation.engine.measured_format import measure_once
kept = Path(sys.argv[1])
try:
    kernels = compiled_kernels(kept)
except NoKernels:
    kernels = None
measure_once("small", kept, kernels)
"""


@pytest.fixture(scope="session")
def kernels_folder() -> Path:
    """Where kernels are compiled, once for all workers: it takes seconds of processor time. In these tests' own homes."""
    folder = Path(os.environ["MUSICGEN_TEST_HOME"], "engine")
    with FileLock(f"{folder}.lock"):
        if not (folder / "small.json").exists():
            command = [sys.executable, "-c", COMPILE, str(folder)]
            subprocess.run(command, cwd=ROOT, env=environment_for(folder), check=True, timeout=120)
    return folder


def bring_kernels(kernels_folder: Path, home: Path) -> None:
    """Put what is compiled into another home; what somebody is just writing has other names."""
    (home / "engine").mkdir(mode=0o700, parents=True)
    for pattern in ("kernels-*.so", "kernels-*.sha256", "small.json"):
        for path in kernels_folder.glob(pattern):
            shutil.copy(path, home / "engine")


@pytest.fixture(scope="session")
def migrated() -> Path:
    """A home whose database is migrated, to be copied. It is made once for all workers, as it takes seconds, too."""
    made = Path(os.environ["MUSICGEN_TEST_HOME"], "migrated")
    with FileLock(f"{made}.lock"):
        if not made.exists():
            making = made.with_name("preparing")
            command = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
            subprocess.run(command, cwd=ROOT, env=environment_for(making), check=True, timeout=120)
            making.rename(made)
    return made


@pytest.fixture(scope="session")
def prepared(migrated: Path, kernels_folder: Path) -> Prepare:
    """Makes homes with a migrated database and compiled kernels."""

    def prepare(home: Path) -> dict[str, str]:
        shutil.copytree(migrated, home)
        bring_kernels(kernels_folder, home)
        return environment_for(home)

    return prepare


@pytest.fixture
def prepared_environment(prepared: Prepare, tmp_path: Path) -> dict[str, str]:
    """Environment for a studio in a process of its own, whose home under `tmp_path` has a migrated database."""
    return prepared(tmp_path / "home")


def environment_for(home: Path) -> dict[str, str]:
    """Environment for a studio in a process of its own at `home`, without the settings of these tests."""
    hidden = ("MUSICGEN_", "DJANGO_", "DATABASE_URL", "REDIS_URL", "PYTEST_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return {
        **inherited,
        "MUSICGEN_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        # Their proofs would load the engine in each of these studios.
        "MUSICGEN_SHIPPED_ADAPTERS": "false",
        # Each would import torch for a switch that few of them make.
        "MUSICGEN_SPARE_RUNNER": "false",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        # A test that ends a studio does not wait for its job.
        "MUSICGEN_DRAIN_SECONDS": "0",
    }


@dataclass
class RunningStudio:
    """A `manage.py serve` in a process of its own. `log` grows with what it writes to stderr, `said` with its lines."""

    url: str
    home: Path
    environment: dict[str, str]
    process: subprocess.Popen[str]
    log: list[str]
    said: list[str]


@contextmanager
def running_studio(
    environment: dict[str, str], *, python_options: Sequence[str] = (), options: Sequence[str] = ()
) -> Iterator[RunningStudio]:
    """Start a studio on a free port and wait for its address; end it by SIGTERM, as a service would."""
    process = subprocess.Popen(
        [sys.executable, *python_options, "manage.py", "serve", "--port", "0", *options],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    log: list[str] = []
    said: list[str] = []
    # Read all the time: a pipe that is full would stop the studio.
    readers = [
        threading.Thread(target=lambda: log.extend(process.stderr or ()), daemon=True),
        threading.Thread(target=lambda: said.extend(process.stdout or ()), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        wait_until(lambda: bool(said) or process.poll() is not None, seconds=60, what="its address")
        assert process.poll() is None, f"serve ended with {process.returncode}: {''.join(log)[-4000:]}"
        found = re.search(r"http://\S+", said[0])
        assert found, said[0]
        yield RunningStudio(found[0], Path(environment["MUSICGEN_HOME"]), environment, process, log, said)
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for reader in readers:
            reader.join(timeout=5)


@pytest.fixture
def studio(prepared_environment: dict[str, str]) -> Iterator[RunningStudio]:
    """A running studio with nothing in it yet."""
    with running_studio(prepared_environment) as running:
        yield running


def free_port() -> int:
    """A TCP port of loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Poll `condition`; fail the test with `what` when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen within {seconds} s")
        time.sleep(0.05)


def _accepts_connections(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _server(arguments: list[str], *, port: int, **options: Any) -> Iterator[None]:
    process = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, **options
    )
    try:
        wait_until(
            lambda: process.poll() is not None or _accepts_connections(port),
            seconds=30,
            what=f"start of {arguments[0]}",
        )
        assert process.poll() is None, f"{arguments[0]} ended with {process.returncode} at start"
        yield
    finally:
        # PostgreSQL's fast shutdown; Redis treats it like SIGTERM.
        process.send_signal(2)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """URL of a private redis-server that keeps nothing."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="musicgen-redis-") as folder:
        arguments = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        with _server([*arguments, "--save", "", "--appendonly", "no"], port=port):
            yield f"redis://127.0.0.1:{port}/0"


def _postgres_programs() -> Path | None:
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if versions:
        return versions[-1].parent
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL, without a database name, of a private PostgreSQL server."""
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    # PostgreSQL refuses to run as root; Debian's package brings a user for it.
    account: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    port = free_port()
    with ExitStack() as stack:
        # Not under tmp_path, whose parents belong to the tests' user alone.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="musicgen-postgres-")))
        if account:
            shutil.chown(folder, "postgres", "postgres")
        cluster = folder / "cluster"
        initialise = [
            str(programs / "initdb"),
            "-D",
            str(cluster),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
        ]
        subprocess.run(
            [*initialise, "--locale", "C.UTF-8", "--no-sync"],
            check=True,
            capture_output=True,
            cwd=folder,
            **account,
        )
        arguments = [str(programs / "postgres"), "-D", str(cluster), "-k", str(folder), "-p", str(port)]
        stack.enter_context(
            _server([*arguments, "-h", "127.0.0.1", "-c", "fsync=off"], port=port, cwd=folder, **account)
        )
        # Its port is open some moments before it takes anybody in.
        ready = [str(programs / "pg_isready"), "--host", "127.0.0.1", "--port", str(port), "--quiet"]
        limit = time.monotonic() + 60
        while subprocess.run(ready, check=False).returncode:
            assert time.monotonic() < limit, "PostgreSQL did not become ready within 60 s"
            time.sleep(0.05)
        yield f"postgres://postgres@127.0.0.1:{port}"


@pytest.fixture
def postgres(postgres_server: str) -> Iterator[str]:
    """URL of a new, empty PostgreSQL database, dropped after the test."""
    import psycopg

    name = f"studio_{time.time_ns()}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield f"{postgres_server}/{name}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


# --- Storage that speaks S3 ---


@dataclass
class StorageServer:
    """A private server of the S3 protocol, in a thread. What it keeps outlives `stop` and `start`."""

    port: int
    _running: Any = None
    _client: Any = None

    def start(self) -> None:
        """Listen on the port, as before."""
        from moto.server import ThreadedMotoServer

        self._running = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._running.start()
        self.port = self._running.get_host_and_port()[1]

    def stop(self) -> None:
        """Be away."""
        self._running.stop()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Be away while the block lasts."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def new_bucket(self) -> str:
        """Make an empty bucket and answer its address for MUSICGEN_MEDIA_URL."""
        import boto3

        name = f"takes-{time.time_ns()}"
        endpoint = f"http://127.0.0.1:{self.port}"
        if self._client is None:
            where = {"endpoint_url": endpoint, "region_name": "us-east-1"}
            self._client = boto3.client("s3", **where, **STORAGE_KEYS)
        self._client.create_bucket(Bucket=name)
        return f"s3://{name}/studio?endpoint={endpoint}&region=us-east-1"


STORAGE_KEYS = {"aws_access_key_id": "studio", "aws_secret_access_key": "studio-secret"}
#: The same as boto3 finds them.
STORAGE_ENVIRONMENT = {name.upper(): value for name, value in STORAGE_KEYS.items()}


@pytest.fixture(scope="session")
def storage_server() -> Iterator[StorageServer]:
    """The server of buckets."""
    server = StorageServer(port=0)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def bucket(storage_server: StorageServer, settings: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket in which this process's studio keeps takes and adapters. Its address."""
    from musicgen_site.media_address import media_storages

    url = storage_server.new_bucket()
    for name, value in STORAGE_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    settings.STORAGES = {**settings.STORAGES, **media_storages(url)}
    settings.STUDIO = settings.STUDIO.model_copy(update={"media_url": url})
    return url


# --- Chromium ---


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the system's Chromium; the part without windows where it is packed alone, which costs far less."""
    for name in ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any], chromium: str) -> dict[str, Any]:
    """Start the system's Chromium, silent on the network, and able to play audio without a click."""
    # Playwright keeps an event loop in this thread; Django would refuse every query beside it.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    return {
        **browser_type_launch_args,
        "executable_path": chromium,
        "args": [
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-default-apps",
            "--disable-dev-shm-usage",
            "--disable-domain-reliability",
            "--disable-sync",
            "--no-first-run",
            "--no-pings",
            "--autoplay-policy=no-user-gesture-required",
        ],
    }
