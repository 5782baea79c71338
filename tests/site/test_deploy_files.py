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


def test_the_image_copies_what_is_there_and_no_secret() -> None:
    for line in re.findall(r"^COPY (.+)$", (FOLDER / "Dockerfile").read_text(), flags=re.MULTILINE):
        *sources, _ = line.split()
        assert all((ROOT / source).exists() for source in sources), line
    patterns = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    left_out = re.compile(
        "|".join(
            re.escape(line).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*") + "(/.*)?"
            for line in patterns
            if line and not line.startswith("#")
        )
    )
    for secret in (".env", "docs/deploy/.env", "docs/deploy/certificates/privkey.pem", "var/secret_key"):
        assert left_out.fullmatch(secret), secret
    code = [str(path.relative_to(ROOT)) for path in ROOT.glob("[a-z]*/*.py")]
    for needed in ("manage.py", "requirements.lock", "templates/base.html", "static/app.css", *code):
        assert not left_out.fullmatch(needed), needed


# The compose file's commands with its settings, and nginx in front of them.


def environment_of(service: str, **elsewhere: str) -> dict[str, str]:
    """What a service is told, with an operator's `.env`, and the addresses that names of containers stand for."""
    operator = {
        "MUSICGEN_ALLOWED_HOSTS": "studio.example",
        "MUSICGEN_SECRET_KEY": "k7" * 24,
        "POSTGRES_PASSWORD": "letters7",
    }

    def filled(found: re.Match[str]) -> str:
        name, default = found[1], found[2]
        assert name in operator or default.startswith(":-"), name
        return operator.get(name, default[2:])

    told = {
        name: re.sub(r"\$\{(\w+)(:[^}]*)\}", filled, value)
        for name, value in compose()["services"][service]["environment"].items()
    }
    for inside, outside in elsewhere.items():
        assert any(inside in value for value in told.values()), inside
        told = {name: value.replace(inside, outside) for name, value in told.items()}
    return told


def nginx_configuration(folder: Path, upstream: str, *, plain: int, secure: int, studio: int) -> Path:
    """Our file and an upstream in a main one, with ports and certificate of the test's."""
    certificate = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=studio.example"]
    certificate += ["-keyout", str(folder / "privkey.pem"), "-out", str(folder / "fullchain.pem")]
    subprocess.run(certificate, check=True, capture_output=True)
    ours = "\n".join(((FOLDER / "nginx.conf").read_text(), upstream))
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


def nginx_or_skip() -> str:
    """The program."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None or shutil.which("openssl") is None:
        pytest.skip("nginx or openssl is not installed (Debian: apt-get install nginx-light openssl)")
    return program


def test_nginx_accepts_what_compose_gives_it(tmp_path: Path) -> None:
    program = nginx_or_skip()
    upstream = compose()["configs"]["upstream"]["content"].replace("web:8000", "127.0.0.1:8000")
    version = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
    found = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", version)
    assert found
    if tuple(map(int, found.groups())) < (1, 27, 3):  # which cannot look up names again and again
        upstream = upstream.replace("resolver 127.0.0.11 valid=5s;", "").replace(" resolve ", " ")
    main = nginx_configuration(tmp_path, upstream, plain=1, secure=2, studio=3)
    ended = subprocess.run(
        [program, "-t", "-c", str(main), "-p", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.postgres
@pytest.mark.redis
@pytest.mark.slow
def test_the_studio_of_the_compose_file_behind_nginx(
    postgres: str, redis_server: str, tmp_path: Path
) -> None:
    program = nginx_or_skip()
    services = compose()["services"]
    ours = {
        "musicgen:letters7@postgres:5432/musicgen": postgres.removeprefix("postgres://"),
        "redis:6379/0": redis_server.removeprefix("redis://"),
    }
    environment = {**environment_for(tmp_path / "home"), **environment_of("web", **ours)}
    assert (
        environment_of("migrate", **ours) == environment_of("engine", **ours) == environment_of("web", **ours)
    )
    # `tests/site/test_servers.py` has it at work.
    assert services["engine"]["command"] == ["python", "manage.py", "runworker", "generation"]
    subprocess.run(
        [sys.executable, *services["migrate"]["command"][1:]], check=True, cwd=ROOT, env=environment
    )
    python, script, verb, *options = services["web"]["command"]
    assert (python, script, verb) == ("python", "manage.py", "serve")
    for inside, outside in (("8000", "0"), ("0.0.0.0", "127.0.0.1")):
        options[options.index(inside)] = outside
    plain, secure = free_port(), free_port()
    with running_studio(environment, options=options) as studio:
        port = int(studio.url.rsplit(":", 1)[1].strip("/"))
        check = services["web"]["healthcheck"]["test"]
        assert check[:2] == ["CMD", "python"]
        asked = [argument.replace(":8000", f":{port}") for argument in check[2:]]
        subprocess.run([sys.executable, *asked], check=True, timeout=20)
        wait_until(lambda: any("/setup/" in line for line in studio.said), seconds=20, what="the first link")
        upstream = (FOLDER / "nginx-upstream.conf").read_text()
        main = nginx_configuration(tmp_path, upstream, plain=plain, secure=secure, studio=port)
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
