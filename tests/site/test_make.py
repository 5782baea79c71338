"""What `make` says on a machine that lacks something, and that it installs only when a lock file changed."""

import os
import subprocess
from pathlib import Path

from tests.conftest import ROOT


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make on the product's Makefile."""
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_machine_without_python_is_told_which_one_is_needed(tmp_path: Path) -> None:
    ended = make(f"VENV={tmp_path / 'venv'}", "PYTHON_CANDIDATES=no-such-python", "run")
    assert ended.returncode != 0
    assert "Python 3.11 or newer is needed, and none of these is: no-such-python." in ended.stderr


def test_a_python_without_its_venv_module_is_told_apart(tmp_path: Path) -> None:
    """Debian's python3 comes so."""
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\ncase "$*" in *ensurepip*) exit 1 ;; esac\n')
    python.chmod(0o755)
    ended = make(f"VENV={tmp_path / 'venv'}", f"PYTHON_CANDIDATES={python}", "run")
    assert ended.returncode != 0
    assert f"{python} comes without its venv module." in ended.stderr
    assert "apt-get install python3-venv" in ended.stderr
    assert not (tmp_path / "venv").exists()


def test_packages_are_installed_only_when_the_lock_changed(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    calls = tmp_path / "calls"
    python.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    python.chmod(0o755)
    stamp = tmp_path / "run.stamp"
    assert make(f"VENV={tmp_path}", str(stamp)).returncode == 0
    assert "install" in calls.read_text()
    assert "requirements.lock" in calls.read_text()
    calls.unlink()
    assert make(f"VENV={tmp_path}", str(stamp)).returncode == 0
    assert not calls.exists()
    os.utime(stamp, (0, 0))
    assert make(f"VENV={tmp_path}", str(stamp)).returncode == 0
    assert calls.exists()


def test_help_lists_the_targets() -> None:
    listed = make().stdout
    for target in ("run", "test", "check", "lock", "clean"):
        assert f"make {target}" in listed
