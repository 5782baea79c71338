"""What an operator can set through the environment, checked once and explained in sentences.

Knows nothing of Django's settings module; the README's settings table is compared with this class.
"""

import math
import os
import re
import secrets
from pathlib import Path
from typing import Annotated, Any, Literal

from django.core.exceptions import ImproperlyConfigured
from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from generation.webhooks.addresses import Allowed
from musicgen_site.email_server import parse_email_url
from musicgen_site.media_address import parse_media_url

BASE_DIR = Path(__file__).resolve().parent.parent

Access = Literal["local", "shared"]

#: Their values are never shown, not even when they are refused.
SECRET_VARIABLES = frozenset({"MUSICGEN_SECRET_KEY", "MUSICGEN_METRICS_TOKEN"})


class StudioSettings(BaseSettings):
    """All settings of one studio, read from the environment; immutable afterwards."""

    model_config = SettingsConfigDict(
        env_prefix="MUSICGEN_", env_ignore_empty=True, frozen=True, extra="ignore", populate_by_name=True
    )

    home: Path = Field(
        default=BASE_DIR / "var",
        description="Folder of everything the studio writes: database, takes, adapters, caches.",
    )
    access: Access = Field(
        default="local",
        description="`local`: one owner, no login, this machine only. `shared`: everybody logs in.",
    )
    host: str = Field(default="127.0.0.1", description="Address that `serve` listens on.")
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port that `serve` listens on; 0 takes a free one."
    )
    secret_key: str | None = Field(
        default=None,
        min_length=32,
        repr=False,
        description="Key that signs sessions, 32 characters or more. Without it: made once, in the home.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Shared mode: comma-separated host names under which people reach the studio.",
    )
    behind_https_proxy: bool = Field(
        default=False,
        description="Shared mode: a proxy in front speaks HTTPS, and only it reaches the studio. "
        "Its X-Forwarded-Proto and X-Forwarded-For are believed, and cookies and pages are for HTTPS only.",
    )
    email_url: str | None = Field(
        default=None,
        repr=False,
        description="Mail server for password resets, as in `smtp+tls://user:password@host:587`. Without it: no mail.",
    )
    email_from: str = Field(
        default="musicgen-studio@localhost", description="Address that mails of the studio come from."
    )
    session_hours: float = Field(
        default=336,
        ge=0.1,
        le=8760,
        description="Shared mode: hours after which a login ends, and people log in again.",
    )
    max_duration_seconds: Annotated[dict[str, int | float], NoDecode] = Field(
        default_factory=dict,
        description="Limits that replace the models' own, as in `musicgen-small=60,musicgen-large=20`. A model named here"
        " makes no longer takes in windows, unless the next setting names it too.",
    )
    max_extended_seconds: Annotated[dict[str, int | float], NoDecode] = Field(
        default_factory=dict,
        description="Longest takes in overlapping windows instead of the models' own, as in `musicgen-small=180`;"
        " 0: none longer than a window.",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="Device for models: `auto`, `cpu`, `cuda` or `mps`."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8", "int4"] = Field(
        default="auto",
        description="Number format of model weights: `auto`, `float32`, `bfloat16`, `float16`, and on a processor `int8` or"
        " `int4`. `auto` is bfloat16 on CUDA, and on a processor where that is quicker, which is measured when the first model"
        " of its size is loaded; else float32. `int4` needs least memory and departs furthest from float32. With a C compiler,"
        " on a processor with AVX2 or AVX-512, both make a single take quicker than bfloat16.",
    )
    memory_gb: float | None = Field(
        default=None,
        gt=0,
        description="Pretend that the device has this many GB of memory (10^9 bytes), to try a smaller machine.",
    )
    keep_alive_minutes: float = Field(
        default=15,
        ge=0,
        description="Minutes after which a loaded model that nobody uses ends. The active one stays.",
    )
    spare_runner: bool = Field(
        default=True,
        description="Keep a process with its libraries imported ready for the next model, which halves the time of a"
        " switch and holds some 400 MB. Only where memory is plenty, whatever this says.",
    )
    takes_at_once: int = Field(
        default=8,
        ge=1,
        le=32,
        description="Most takes that one engine makes side by side; together they take little longer than one. Fewer"
        " where memory is short, or where this machine's arithmetic would let one take depend on another.",
    )
    live_audio: bool = Field(
        default=True,
        description="Let takes be heard while they are made. Costs the engine about as much again as turning the finished"
        " take into sound.",
    )
    lease_seconds: float = Field(
        default=30,
        ge=2,
        le=600,
        description="Seconds after which a job goes to another engine when its own has stopped saying that it works.",
    )
    runner_still_seconds: float = Field(
        default=120,
        ge=1,
        le=86_400,
        description="Seconds in which the process of a loaded model may neither say anything nor compute while it has"
        " work; then it counts as hung and is ended. One that computes in silence gets twenty times as long.",
    )
    drain_seconds: float = Field(
        default=30,
        ge=0,
        le=86_400,
        description="Seconds that a running job gets to finish once `serve` or `runworker` is asked to end by SIGTERM;"
        " then it goes back to the queue.",
    )
    max_queued_jobs: int = Field(default=100, ge=1, description="Most unfinished jobs one person may have.")
    max_daily_seconds: int = Field(
        default=3600,
        ge=0,
        description="Shared mode: most seconds of audio one person may ask for in 24 hours; 0 for no limit.",
    )
    max_submissions_per_minute: int = Field(
        default=60, ge=1, description="Shared mode: most jobs one person may submit in a minute."
    )
    max_uploads_per_hour: int = Field(
        default=30,
        ge=1,
        description="Shared mode: most adapters one person may import in an hour, and most clips.",
    )
    max_sockets_per_person: int = Field(
        default=50,
        ge=1,
        le=10_000,
        description="Most pages that one person may have open with live updates, in each web process. One more works"
        " without them.",
    )
    max_prompt_characters: int = Field(default=1000, ge=1, le=100_000, description="Longest prompt accepted.")
    max_variations: int = Field(
        default=8, ge=1, le=100, description="Most variations one submission may ask for."
    )
    max_adapter_mb: int = Field(
        default=1024,
        ge=1,
        le=1_000_000,
        description="Largest adapter that is taken in, in MB (10^6 bytes): the zip, and what it unpacks to.",
    )
    max_clip_mb: int = Field(
        default=50,
        ge=1,
        le=10_000,
        description="Largest sound file that is taken in as a clip to go on from or to follow, in MB (10^6 bytes).",
    )
    keep_takes_days: float = Field(
        default=0,
        ge=0,
        le=36_500,
        description="Days after which takes that are not favourites are deleted; 0 keeps them.",
    )
    keep_deleted_hours: float = Field(
        default=1,
        ge=0,
        le=87_600,
        description="Hours in which a deleted take can be brought back; then its file goes.",
    )
    max_person_gb: float = Field(
        default=0,
        ge=0,
        description="Most GB (10^9 bytes) that the takes of one person may use; 0 for no limit.",
    )
    max_takes_gb: float = Field(
        default=0,
        ge=0,
        description="Most GB that the takes of all people may use; 0 for no limit.",
    )
    min_free_gb: float = Field(
        default=0.2,
        ge=0,
        description="GB of the disk that new jobs leave free.",
    )
    when_full: Literal["refuse", "remove-oldest"] = Field(
        default="refuse",
        description="At a limit of disk use: `refuse` new jobs, or `remove-oldest` takes that are not favourites to make"
        " room.",
    )
    max_webhooks: int = Field(
        default=5, ge=0, le=100, description="Most webhooks one person may have; 0 turns webhooks off."
    )
    webhook_allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Comma-separated hosts and networks that webhooks may call although they are not public, as in"
        " `hooks.lan,192.168.1.0/24`. For these plain HTTP will do.",
    )
    shipped_adapters: bool = Field(
        default=True,
        description="Bring the demo model's adapters into a new studio, once each.",
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="`text` for people, or `json`: one object a line, with a line for each request.",
    )
    log_level: Literal["debug", "info", "warning", "error"] | None = Field(
        default=None,
        description="Least level that is logged: `debug`, `info`, `warning` or `error`. Without it: `info`, and in"
        " text no line for each request and job.",
    )
    metrics_token: str | None = Field(
        default=None,
        min_length=16,
        repr=False,
        description="Shared mode: bearer token with which `/metrics` is read, 16 characters or more. Without it: staff"
        " only.",
    )
    debug: bool = Field(default=False, description="Show tracebacks in the browser. For development only.")
    database_url: str | None = Field(
        default=None,
        validation_alias="DATABASE_URL",
        repr=False,
        description="Database, as in `postgres://user:password@host/name`. Without it: SQLite in the home.",
    )
    redis_url: str | None = Field(
        default=None,
        validation_alias="REDIS_URL",
        repr=False,
        description="Redis, for several processes or machines, as in `redis://host:6379/0`.",
    )

    media_url: str | None = Field(
        default=None,
        description="Bucket that keeps takes and adapters, for machines that share no folder, as in"
        " `s3://bucket/studio?endpoint=https://storage.example`. Without it: the home.",
    )
    media_cache_gb: float = Field(
        default=10,
        gt=0,
        description="With a bucket: most GB of adapters that one machine keeps copies of.",
    )

    @field_validator("home")
    @classmethod
    def _absolute_home(cls, value: Path) -> Path:
        # Not resolved: symbolic links stay as the operator wrote them.
        return Path.cwd() / value.expanduser()

    @field_validator("allowed_hosts", "webhook_allowed_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(name.strip().lower() for name in value.split(",") if name.strip())
        return value

    @field_validator("webhook_allowed_hosts")
    @classmethod
    def _webhook_hosts_are_understood(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        Allowed.parse(value)
        return value

    @field_validator("max_duration_seconds", mode="before")
    @classmethod
    def _parse_durations(cls, value: Any) -> Any:
        return parse_max_durations(value) if isinstance(value, str) else value

    @field_validator("max_extended_seconds", mode="before")
    @classmethod
    def _parse_extended_durations(cls, value: Any) -> Any:
        return parse_max_durations(value, may_be_zero=True) if isinstance(value, str) else value

    @field_validator("email_url")
    @classmethod
    def _email_url_is_understood(cls, value: str | None, others: ValidationInfo) -> str | None:
        parse_email_url(value)
        if value is not None and "*" in others.data.get("allowed_hosts", ()):
            raise ValueError(
                "name the hosts in MUSICGEN_ALLOWED_HOSTS. With * whoever asks for a new password chooses where the link"
                " in the mail leads."
            )
        return value

    @field_validator("media_url")
    @classmethod
    def _media_url_is_understood(cls, value: str | None) -> str | None:
        if value is not None:
            parse_media_url(value)
        return value

    @property
    def takes_folder(self) -> Path:
        """Finished audio files. Created by whoever writes the first one."""
        return self.home / "takes"

    @property
    def clips_folder(self) -> Path:
        """Clips that people brought in. Created by whoever writes the first one."""
        return self.home / "clips"

    @property
    def adapters_folder(self) -> Path:
        """Weights of adapters, each under its hash. Created by whoever imports the first one."""
        return self.home / "adapters"

    @property
    def incoming_folder(self) -> Path:
        """Uploads and imports on their way in; what an import leaves here after a crash is swept by a later one."""
        return self.home / "incoming"

    @property
    def max_adapter_bytes(self) -> int:
        """Largest adapter in bytes."""
        return self.max_adapter_mb * 10**6

    @property
    def max_clip_bytes(self) -> int:
        """Largest upload of a clip in bytes."""
        return self.max_clip_mb * 10**6

    @property
    def scratch_folder(self) -> Path:
        """Files of running jobs; may be emptied when nothing runs."""
        return self.home / "scratch"

    @property
    def cache_folder(self) -> Path:
        """Files that can be made again, such as converted downloads."""
        return self.home / "cache"

    @property
    def engine_folder(self) -> Path:
        """What was compiled and measured for this machine's processor, when a model was first loaded on it."""
        return self.home / "engine"

    @property
    def database_path(self) -> Path:
        """The SQLite file used when no DATABASE_URL is given."""
        return self.home / "studio.sqlite3"

    @property
    def secret_key_path(self) -> Path:
        """File of the created key, readable by its owner only."""
        return self.home / "secret_key"


def environment_name(field_name: str) -> str:
    """Name of the environment variable behind a field of `StudioSettings`."""
    alias = StudioSettings.model_fields[field_name].validation_alias
    return alias if isinstance(alias, str) else f"MUSICGEN_{field_name.upper()}"


def load_studio_settings() -> StudioSettings:
    """Read the environment. Raises ImproperlyConfigured with one sentence per wrong value."""
    try:
        return StudioSettings()
    except ValidationError as error:
        raise ImproperlyConfigured(" ".join(_sentence(problem) for problem in error.errors())) from error


def _sentence(problem: Any) -> str:
    location = str(problem["loc"][0]) if problem["loc"] else "settings"
    name = environment_name(location) if location in StudioSettings.model_fields else location
    if problem["type"] == "value_error":
        return f"{name}: {problem['ctx']['error']}"
    given = "" if name in SECRET_VARIABLES else f" (it is {problem['input']!r})"
    message = re.sub(r"^\w+ should", "should", str(problem["msg"]))
    return f"{name} {message}{given}."


def parse_max_durations(text: str, *, may_be_zero: bool = False) -> dict[str, int | float]:
    """Parse `musicgen-small=60,musicgen-large=20` to seconds by model id. Raises ValueError."""
    limits: dict[str, int | float] = {}
    for entry in (part.strip() for part in text.split(",")):
        if not entry:
            continue
        model_id, separator, number = (piece.strip() for piece in entry.partition("="))
        if not separator or not model_id:
            raise ValueError(f'"{entry}" is not of the form musicgen-small=60.')
        if model_id in limits:
            raise ValueError(f'"{model_id}" is given twice.')
        try:
            seconds = float(number)
        except ValueError:
            raise ValueError(f'"{number}" in "{entry}" is not a number of seconds.') from None
        if not math.isfinite(seconds) or seconds < 0 or (seconds == 0 and not may_be_zero):
            bound = "0 or more" if may_be_zero else "above 0"
            raise ValueError(f'"{number}" in "{entry}" must be a number of seconds {bound}.')
        limits[model_id] = int(seconds) if seconds.is_integer() else seconds
    return limits


def create_home(home: Path) -> None:
    """Create the home folder, for its owner only. Raises ImproperlyConfigured when that is not possible."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ImproperlyConfigured(
            f"The folder {home} cannot be created ({error.strerror}). "
            "Set MUSICGEN_HOME to a folder you may write to."
        ) from error


def read_or_create_secret_key(path: Path) -> str:
    """The key in `path`, created with mode 600 when missing; processes that start together agree on it."""
    try:
        return _read_secret_key(path)
    except FileNotFoundError:
        pass
    create_home(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as key_file:
            key_file.write(secrets.token_urlsafe(50) + "\n")
            key_file.flush()
            os.fsync(key_file.fileno())
        try:
            # A link, unlike a rename, never replaces the key that another process has just written.
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    except OSError as error:
        raise ImproperlyConfigured(
            f"The key file {path} cannot be written ({error.strerror}). "
            "Set MUSICGEN_HOME to a folder you may write to, or set MUSICGEN_SECRET_KEY."
        ) from error
    return _read_secret_key(path)


def _read_secret_key(path: Path) -> str:
    key = path.read_text(encoding="ascii").strip()
    if len(key) < 32:
        raise ImproperlyConfigured(
            f"The key in {path} is too short. Delete the file, and a new one is created."
        )
    return key
