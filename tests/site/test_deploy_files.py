"""docs/deploy.md and the files beside it: what they name is there, and the programs they are for accept them."""

import configparser
import re
import shutil
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands

from musicgen_site.studio_settings import StudioSettings, environment_name
from tests.conftest import ROOT, environment_for, free_port, running_studio, wait_until

FOLDER = ROOT / "docs" / "deploy"
GUIDE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
UNITS = sorted(FOLDER.glob("*.service"))
KNOWN_VARIABLES = {environment_name(field) for field in StudioSettings.model_fields} | {
    "HF_HOME",
    "POSTGRES_PASSWORD",
}


def files() -> dict[str, str]:
    """Text of the guide and of each file."""
    beside = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir() if path.is_file()}
    return {"deploy.md": GUIDE, **beside}


def compose() -> dict[str, Any]:
    """The compose file."""
    content: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
    return content


def unit(path: Path) -> dict[str, dict[str, str]]:
    """A systemd unit's sections."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(path)
    return {name: dict(parser[name]) for name in parser.sections()}


def test_every_command_that_is_named_exists() -> None:
    named = {word for text in files().values() for word in re.findall(r"manage\.py[\"'`,\s]+([a-z_]+)", text)}
    assert {"serve", "runworker", "migrate", "backup"} <= named
    assert named <= set(get_commands())


def test_every_setting_that_is_named_exists() -> None:
    for name, text in files().items():
        named = set(re.findall(r"\b((?:MUSICGEN|HF|DATABASE|REDIS|POSTGRES)_[A-Z_]+)\b", text))
        assert named - {"POSTGRES_USER", "POSTGRES_DB"} <= KNOWN_VARIABLES, name


def test_the_guide_names_every_file() -> None:
    ours = {path.name for path in FOLDER.iterdir() if path.is_file() and not path.name.endswith("ignore")}
    assert ours == set(re.findall(r"\]\(deploy/([\w.-]+)\)", GUIDE)) | {"musicgen.service"}
    assert "docs/deploy/musicgen.service" in GUIDE


def test_the_settings_are_ones_that_the_studio_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    for line in (FOLDER / "musicgen.env").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            monkeypatch.setenv(*line.split("=", 1))
    studio = StudioSettings()
    assert (studio.access, studio.behind_https_proxy) == ("shared", True)
    assert studio.redis_url
    assert str(studio.database_url).startswith("postgres://")


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_service_restarts_and_stops_in_time(path: Path) -> None:
    service = unit(path)["Service"]
    program, script, *arguments = service["ExecStart"].split()
    assert (program, script) == ("/opt/musicgen/.venv/bin/python", "manage.py")
    assert arguments[0] in get_commands()
    assert service["Restart"] == "always"
    # SIGTERM to the runners would end the job that is to be finished.
    assert service["KillMode"] == "mixed"
    if "--no-engine" not in arguments:
        drain = float(StudioSettings.model_fields["drain_seconds"].default)
        assert float(service["TimeoutStopSec"]) >= drain + 20


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian: apt-get install systemd)")
    for path in UNITS:
        text = path.read_text(encoding="utf-8").replace("/opt/musicgen/.venv/bin/python", sys.executable)
        text = text.replace("User=musicgen", "User=root").replace("Group=musicgen", "Group=root")
        (tmp_path / path.name).write_text(text, encoding="utf-8")
        ended = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(tmp_path / path.name)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        ours = [line for line in ended.stderr.splitlines() if "musicgen" in line]
        assert ours == []


def test_the_compose_file_hangs_together() -> None:
    content = compose()
    services = content["services"]
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= set(services), name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            inside = source.startswith("./") and source != "./certificates"
            assert (FOLDER / source).exists() if inside else source in {*content["volumes"], "./certificates"}
        for used in service.get("configs", ()):
            assert used["source"] in content["configs"]
    assert services["web"]["environment"] == services["engine"]["environment"]
    drain = float(StudioSettings.model_fields["drain_seconds"].default)
    assert float(services["engine"]["stop_grace_period"].rstrip("s")) >= drain + 20
    context = (FOLDER / services["web"]["build"]["context"]).resolve()
    assert context == ROOT
    assert (context / services["web"]["build"]["dockerfile"]).is_file()


def test_the_image_copies_what_is_there() -> None:
    for line in re.findall(r"^COPY (.+)$", (FOLDER / "Dockerfile").read_text(), flags=re.MULTILINE):
        *sources, _ = line.split()
        assert all((ROOT / source).exists() for source in sources), line


# nginx in front of a real studio.


def nginx_configuration(folder: Path, *, plain: int, secure: int, studio: int) -> Path:
    """Our two files in a main one, with ports and certificate of the test's."""
    certificate = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=studio.example"]
    certificate += ["-keyout", str(folder / "privkey.pem"), "-out", str(folder / "fullchain.pem")]
    subprocess.run(certificate, check=True, capture_output=True)
    ours = "\n".join((FOLDER / name).read_text() for name in ("nginx-upstream.conf", "nginx.conf"))
    changes = {
        "listen 80;": f"listen 127.0.0.1:{plain};",
        "listen 443 ssl;": f"listen 127.0.0.1:{secure} ssl;",
        "127.0.0.1:8000": f"127.0.0.1:{studio}",
        "/etc/ssl/musicgen": str(folder),
    }
    for before, after in changes.items():
        assert before in ours
        ours = ours.replace(before, after)
    places = "".join(
        f"{name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = folder / "nginx.conf"
    main.write_text(
        f"daemon off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{places}{ours}\n}}\n"
    )
    return main


@pytest.mark.slow
def test_a_studio_behind_nginx(tmp_path: Path) -> None:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None or shutil.which("openssl") is None:
        pytest.skip("nginx or openssl is not installed (Debian: apt-get install nginx-light openssl)")
    environment = {
        **environment_for(tmp_path / "home"),
        "MUSICGEN_ACCESS": "shared",
        "MUSICGEN_ALLOWED_HOSTS": "studio.example",
        "MUSICGEN_BEHIND_HTTPS_PROXY": "true",
        "MUSICGEN_LOG_LEVEL": "info",
    }
    plain, secure = free_port(), free_port()
    with running_studio(environment, options=["--no-engine"]) as studio:
        port = int(studio.url.rsplit(":", 1)[1].strip("/"))
        main = nginx_configuration(tmp_path, plain=plain, secure=secure, studio=port)
        server = subprocess.Popen([program, "-c", str(main), "-p", str(tmp_path)], stderr=subprocess.PIPE)
        try:
            wait_until(
                lambda: server.poll() is not None or _listens(secure), seconds=20, what="nginx's start"
            )
            assert server.poll() is None, server.stderr.read() if server.stderr else ""
            _ask_through(plain, secure)
        finally:
            server.terminate()
            server.wait(timeout=20)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _ask_through(plain: int, secure: int) -> None:
    head = exchange(plain, "GET / HTTP/1.1", secure=False)
    assert head.startswith("HTTP/1.1 301")
    assert "Location: https://studio.example/" in head
    head = exchange(secure, "GET / HTTP/1.1")
    assert head.startswith("HTTP/1.1 302"), "it knows that it is behind HTTPS: to the login, not to HTTPS"
    assert "/login/" in head
    assert "Strict-Transport-Security" in head
    upgrade = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Origin": "https://studio.example",
    }
    head = exchange(secure, "GET /ws/studio/ HTTP/1.1", upgrade)
    # Nobody is logged in, which only the studio's socket can say: the upgrade got there.
    assert head.startswith("HTTP/1.1 403")
    large = exchange(secure, "POST /login/ HTTP/1.1", {"Content-Length": str(1200 * 10**6)})
    assert large.startswith("HTTP/1.1 413")


def exchange(port: int, request: str, headers: dict[str, str] | None = None, *, secure: bool = True) -> str:
    """The head of the answer to one request for studio.example."""
    raw = socket.create_connection(("127.0.0.1", port), timeout=20)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(raw, server_hostname="studio.example") if secure else raw as opened:
        lines = [
            request,
            "Host: studio.example",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        opened.sendall("\r\n".join([*lines, "", ""]).encode())
        return opened.recv(4096).decode(errors="replace")
