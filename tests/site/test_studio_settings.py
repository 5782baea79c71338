"""Settings from the environment: what is read, what is refused and with which sentence."""

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st

from musicgen_site.studio_settings import (
    StudioSettings,
    environment_name,
    load_studio_settings,
    parse_max_durations,
    read_or_create_secret_key,
)
from tests.conftest import ROOT


def manage(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run one management command in a process of its own."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_limits_are_parsed_to_numbers_by_model() -> None:
    assert parse_max_durations("musicgen-small=60, musicgen-large=20.5,") == {
        "musicgen-small": 60,
        "musicgen-large": 20.5,
    }


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True),
        st.integers(min_value=1, max_value=10**6) | st.floats(min_value=0.001, max_value=1e6),
    )
)
def test_limits_survive_being_written_and_read(limits: dict[str, int | float]) -> None:
    text = ",".join(f"{model_id}={seconds!r}" for model_id, seconds in limits.items())
    assert parse_max_durations(text) == limits


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("musicgen-small", '"musicgen-small" is not of the form musicgen-small=60.'),
        ("=60", '"=60" is not of the form musicgen-small=60.'),
        ("musicgen-small=", '"" in "musicgen-small=" is not a number of seconds.'),
        ("musicgen-small=abc", '"abc" in "musicgen-small=abc" is not a number of seconds.'),
        ("musicgen-small=0", '"0" in "musicgen-small=0" must be a number of seconds above 0.'),
        ("musicgen-small=-5", '"-5" in "musicgen-small=-5" must be a number of seconds above 0.'),
        ("musicgen-small=nan", '"nan" in "musicgen-small=nan" must be a number of seconds above 0.'),
        ("musicgen-small=inf", '"inf" in "musicgen-small=inf" must be a number of seconds above 0.'),
        ("a=1,a=2", '"a" is given twice.'),
    ],
)
def test_a_bad_limit_is_explained(text: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICGEN_MAX_DURATION_SECONDS", text)
    with pytest.raises(ImproperlyConfigured) as refused:
        load_studio_settings()
    assert str(refused.value) == f"MUSICGEN_MAX_DURATION_SECONDS: {sentence}"


def test_zero_turns_longer_takes_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICGEN_MAX_EXTENDED_SECONDS", "musicgen-small=0,musicgen-large=90")
    assert load_studio_settings().max_extended_seconds == {"musicgen-small": 0, "musicgen-large": 90}
    monkeypatch.setenv("MUSICGEN_MAX_EXTENDED_SECONDS", "musicgen-small=-1")
    with pytest.raises(
        ImproperlyConfigured, match=r"MUSICGEN_MAX_EXTENDED_SECONDS: .* of seconds 0 or more\."
    ):
        load_studio_settings()


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("MUSICGEN_ACCESS", "public", "MUSICGEN_ACCESS should be 'local' or 'shared' (it is 'public')."),
        ("MUSICGEN_PORT", "eighty", "MUSICGEN_PORT should be a valid integer"),
        ("MUSICGEN_PORT", "65536", "MUSICGEN_PORT should be less than or equal to 65535 (it is '65536')."),
        ("MUSICGEN_DEVICE", "tpu", "MUSICGEN_DEVICE should be 'auto', 'cpu', 'cuda' or 'mps' (it is 'tpu')."),
        ("MUSICGEN_MAX_VARIATIONS", "0", "MUSICGEN_MAX_VARIATIONS should be greater than or equal to 1"),
        ("MUSICGEN_DEBUG", "perhaps", "MUSICGEN_DEBUG should be a valid boolean"),
    ],
)
def test_a_bad_value_names_its_variable(
    name: str, value: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ImproperlyConfigured) as refused:
        load_studio_settings()
    assert part in str(refused.value)


def test_a_short_secret_key_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICGEN_SECRET_KEY", "hunter2")
    with pytest.raises(ImproperlyConfigured) as refused:
        load_studio_settings()
    assert "MUSICGEN_SECRET_KEY should have at least 32 characters" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_every_wrong_value_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICGEN_PORT", "x")
    monkeypatch.setenv("MUSICGEN_ACCESS", "y")
    with pytest.raises(ImproperlyConfigured) as refused:
        load_studio_settings()
    assert "MUSICGEN_PORT" in str(refused.value)
    assert "MUSICGEN_ACCESS" in str(refused.value)


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in StudioSettings.model_fields:
        monkeypatch.setenv(environment_name(field), "")
    settings = load_studio_settings()
    assert settings.home == ROOT / "var"
    assert settings.database_url is None
    assert settings.allowed_hosts == ()


def test_hosts_are_a_comma_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICGEN_ALLOWED_HOSTS", "Studio.example, 192.168.1.20,")
    assert load_studio_settings().allowed_hosts == ("studio.example", "192.168.1.20")


def test_a_relative_home_becomes_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MUSICGEN_HOME", "elsewhere")
    assert load_studio_settings().home == tmp_path / "elsewhere"


@pytest.mark.parametrize("command", ["check", "list_models", "serve", "migrate"])
def test_a_bad_limit_stops_every_command_with_a_sentence(
    command: str, studio_environment: dict[str, str]
) -> None:
    ended = manage(
        command, environment={**studio_environment, "MUSICGEN_MAX_DURATION_SECONDS": "musicgen-small=long"}
    )
    assert ended.returncode != 0
    assert ended.stderr == (
        'Error: MUSICGEN_MAX_DURATION_SECONDS: "long" in "musicgen-small=long" is not a number of seconds.\n'
    )
    assert ended.stdout == ""


def test_a_bad_database_url_is_explained_without_its_password(studio_environment: dict[str, str]) -> None:
    ended = manage(
        "check", environment={**studio_environment, "DATABASE_URL": "oracle+x://me:sesame@host/name"}
    )
    assert ended.returncode != 0
    assert ended.stderr.startswith("Error: DATABASE_URL is not understood.")
    assert "sesame" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_help_and_check_write_nothing(studio_environment: dict[str, str]) -> None:
    for arguments in (["--help"], ["check"], ["migrate", "--help"]):
        assert manage(*arguments, environment=studio_environment).returncode == 0
    assert not Path(studio_environment["MUSICGEN_HOME"]).exists()


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_the_home_is_made_on_first_use_and_is_private(studio_environment: dict[str, str]) -> None:
    # One app's tables are enough.
    ended = manage("migrate", "contenttypes", "--verbosity", "0", environment=studio_environment)
    assert ended.returncode == 0, ended.stderr
    home = Path(studio_environment["MUSICGEN_HOME"])
    assert (home / "studio.sqlite3").exists()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_home_that_cannot_be_made_is_explained(studio_environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    home = tmp_path / "file" / "home"
    ended = manage("migrate", environment={**studio_environment, "MUSICGEN_HOME": str(home)})
    assert ended.returncode != 0
    assert f"The folder {home} cannot be created" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_secret_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "home" / "secret_key"
    key = read_or_create_secret_key(path)
    assert len(key) >= 50
    assert read_or_create_secret_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["secret_key"]


def test_processes_that_start_together_agree_on_the_key(tmp_path: Path) -> None:
    for attempt in range(20):
        path = tmp_path / str(attempt) / "secret_key"
        with ThreadPoolExecutor(8) as pool:
            keys = set(pool.map(read_or_create_secret_key, [path] * 8))
        assert keys == {path.read_text().strip()}


def test_a_truncated_key_file_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "secret_key"
    path.write_text("")
    with pytest.raises(ImproperlyConfigured, match="too short"):
        read_or_create_secret_key(path)
