"""What `make` says on a machine that lacks something, and that it installs only when a lock file changed."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, free_port


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
    for target in ("run", "test", "check", "audit", "lock", "clean"):
        assert f"make {target}" in listed


# Known vulnerabilities.

#: What the database says of one of our packages, in the form that it has.
KNOWN = {
    "id": "GHSA-0000-test-0000",
    "summary": "A made-up hole",
    "details": "A made-up hole",
    "affected": [{"package": {"name": "whitenoise", "ecosystem": "PyPI"}, "ranges": [], "versions": []}],
}


@contextmanager
def vulnerability_database(known: list[dict[str, Any]]) -> Iterator[str]:
    """Address of one that knows this of whitenoise and nothing of anything else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            is_of_it = asked.get("package", {}).get("name") == "whitenoise"
            body = json.dumps({"vulns": known} if is_of_it and known else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def audit(service: str, *options: str, ci: bool = False) -> subprocess.CompletedProcess[str]:
    """Run the audit against that database."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("CI", "STRICT")}
    return subprocess.run(
        [sys.executable, ".ci/audit.py", *options],
        cwd=ROOT,
        env={**inherited, "OSV_URL": service, **({"CI": "true"} if ci else {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_where_the_database_is_away_the_check_goes_on_and_says_so() -> None:
    nobody = f"http://127.0.0.1:{free_port()}/"
    checked = audit(nobody, "--brief", ci=True)
    assert (checked.returncode, "SKIPPED: pip-audit" in checked.stdout) == (0, True)
    assert "NOT looked up" in checked.stdout
    assert audit(nobody).returncode == 1, "who asks for nothing else is not told that all is well"


def test_what_is_known_of_a_locked_package_fails_the_audit_and_warns_in_ci() -> None:
    with vulnerability_database([KNOWN]) as service:
        found = audit(service, "--brief")
        assert found.returncode == 1
        assert "GHSA-0000-test-0000" in found.stdout
        in_ci = audit(service, "--brief", ci=True)
        assert (in_ci.returncode, "WARNING" in in_ci.stdout) == (0, True)
        assert "GHSA-0000-test-0000" in in_ci.stdout


def test_nothing_known_is_well() -> None:
    with vulnerability_database([]) as service:
        assert audit(service).returncode == 0
