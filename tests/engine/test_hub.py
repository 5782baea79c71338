"""Fetching from the hub: a fake one on loopback, the real client of the library, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from generation.engine.hub import files_to_fetch
from generation.engine.protocol import CHECKPOINT_NOT_FOUND, CHECKPOINT_UNSUPPORTED, GATED, HUB_UNREACHABLE
from tests.engine.conftest import ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"

OFFICIAL = [
    ".gitattributes",
    "README.md",
    "compression_state_dict.bin",
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "pytorch_model.bin",
    "spiece.model",
    "state_dict.bin",
    "tokenizer.json",
    "tokenizer_config.json",
]
SMALL = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
]


def test_it_takes_only_what_is_read() -> None:
    assert files_to_fetch(OFFICIAL) == [*SMALL, "pytorch_model.bin"]
    assert files_to_fetch([*OFFICIAL, "model.safetensors"]) == [*SMALL, "model.safetensors"]


def test_it_takes_all_parts_of_one_form() -> None:
    parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    old_parts = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    indexes = ["model.safetensors.index.json", "pytorch_model.bin.index.json"]
    others = ["onnx/config.json", "training_args.bin", "flax_model.msgpack", "model.fp16.safetensors"]
    assert files_to_fetch([*old_parts, *indexes, *parts, *others]) == [indexes[0], *parts]
    assert files_to_fetch([*old_parts, indexes[1], *others]) == [indexes[1], *old_parts]


class FakeHub(ThreadingHTTPServer):
    """The hub's answers for a few repositories; `asked` keeps the paths of all requests."""

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.asked: list[str] = []
        self.failing: set[str] = set()  # files that cannot be had at the moment


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.split("?")[0].removeprefix("/api/models").strip("/")
        self.server.asked.append(f"{self.command} {path}")
        repository, _, rest = path.partition("/resolve/") if "/resolve/" in path else (path, "", "")
        repository = "/".join(repository.split("/")[:2])
        refusals = {
            "gated/no-token": (401, "GatedRepo"),
            "gated/no-access": (403, "GatedRepo"),
            "nobody/nothing": (401, "RepoNotFound"),
            "broken/hub": (503, ""),
        }
        if repository in refusals:
            status, code = refusals[repository]
            return self._send(status, b"{}", {"X-Error-Code": code} if code else {}, with_body)
        files = self.server.repositories[repository]
        if rest:
            name = rest.split("/", 1)[1]
            if name in self.server.failing:
                return self._send(410, b"", {}, with_body)  # an answer the client does not try again
            content = files[name]
            tag = {"ETag": f'"{sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            return self._send(200, content, tag, with_body)
        if "/tree/" in path:
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": sha256(content).hexdigest()[:40]}
                for name, content in files.items()
            ]
            return self._send(200, json.dumps(tree).encode(), {}, with_body)
        if "/revision/" in path and not path.endswith(("/main", COMMIT)):
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, with_body)
        siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
        body = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings}
        return self._send(200, json.dumps(body).encode(), {}, with_body)

    def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


LOADER = """
import json, sys
from generation.engine.checkpoint import load_checkpoint
from generation.engine.errors import EngineError

for line in sys.stdin:
    checkpoint, revision = json.loads(line)
    progress = []
    try:
        model = load_checkpoint(
            checkpoint,
            revision=revision,
            device="cpu",
            on_progress=lambda stage, fraction: progress.append(fraction) if stage == "downloading" else None,
        )
        answer = {"revision": model.revision, "parameters": model.parameters}
    except EngineError as error:
        answer = {"error_code": error.error_code, "message": error.message, "detail": error.detail}
    print(json.dumps({**answer, "progress": progress}), flush=True)
"""


class Loader:
    """A process that loads what it is told, with the fake hub as its hub and an empty cache."""

    def __init__(self, endpoint: str, home: Path) -> None:
        hidden = ("HF_", "HUGGING")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_ETAG_TIMEOUT": "2"}
        environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        self.cache = home / "hub"
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOADER],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def load(self, checkpoint: str, revision: str | None = None) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([checkpoint, revision]) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


@pytest.fixture(scope="module")
def hub(mono: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    safe = {each.name: each.read_bytes() for each in mono.iterdir()}
    unread = dict.fromkeys(
        ("state_dict.bin", "pytorch_model.bin", "pytorch_model.bin.index.json", "onnx/config.json"),
        b"never read",
    )
    old = {name: content for name, content in safe.items() if name != "model.safetensors"}
    path = tmp_path_factory.mktemp("bin") / "pytorch_model.bin"
    torch.save(load_file(mono / "model.safetensors"), path)
    other = {**safe, "config.json": json.dumps({"model_type": "encodec"}).encode()}
    repositories = {
        "studio/safe": {**safe, **unread},
        "studio/old": {**old, "pytorch_model.bin": path.read_bytes(), "state_dict.bin": b"never read"},
        "studio/other": other,
    }
    with FakeHub(repositories) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def loader(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loader]:
    loader = Loader(f"http://127.0.0.1:{hub.server_address[1]}", tmp_path_factory.mktemp("hub-home"))
    yield loader
    loader.process.kill()
    loader.process.wait()


def test_it_fetches_what_it_reads_and_reports_bytes(hub: FakeHub, loader: Loader) -> None:
    hub.asked.clear()
    loaded = loader.load("studio/safe")
    assert loaded.get("error_code") is None, loaded
    assert loaded["revision"] == COMMIT
    assert loaded["progress"][0] == 0.0
    assert loaded["progress"][-1] == 1.0
    assert loaded["progress"] == sorted(loaded["progress"])
    assert len(loaded["progress"]) > 2
    fetched = {line.rsplit("/", 1)[1] for line in hub.asked if line.startswith("GET") and "/resolve/" in line}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= fetched
    assert not fetched & {"state_dict.bin", "pytorch_model.bin", "pytorch_model.bin.index.json", "README.md"}
    assert not any("onnx" in line for line in hub.asked)

    # The second time it asks nobody.
    hub.asked.clear()
    again = loader.load("studio/safe")
    assert (again["revision"], again["progress"]) == (COMMIT, [])
    assert loader.load("studio/safe", COMMIT)["revision"] == COMMIT
    assert hub.asked == []


def test_a_repository_with_bin_weights_alone(hub: FakeHub, loader: Loader) -> None:
    hub.asked.clear()
    assert loader.load("studio/old")["revision"] == COMMIT
    fetched = {line.rsplit("/", 1)[1] for line in hub.asked if "/resolve/" in line}
    assert "pytorch_model.bin" in fetched
    assert "state_dict.bin" not in fetched


@pytest.mark.parametrize("missing", ["tokenizer.json", "generation_config.json", "model.safetensors"])
def test_a_broken_off_download_is_completed(hub: FakeHub, loader: Loader, missing: str) -> None:
    repository = f"broken-off/{missing}"
    hub.repositories[repository] = hub.repositories["studio/safe"]
    hub.failing.add(missing)
    assert loader.load(repository)["error_code"] == HUB_UNREACHABLE
    hub.failing.clear()
    hub.asked.clear()
    assert loader.load(repository)["revision"] == COMMIT
    assert any(line.endswith(missing) for line in hub.asked)


@pytest.mark.parametrize("missing", [None, "config.json", "tokenizer.json", "model.safetensors"])
def test_a_cache_without_a_listing_is_looked_through(
    hub: FakeHub, loader: Loader, mono: Path, missing: str | None
) -> None:
    # As other programs leave it: files, and nothing that says which there should be.
    name = f"listless-{missing}"
    repository = loader.cache / f"models--studio--{name}"
    shutil.copytree(mono, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    if missing:
        (repository / "snapshots" / COMMIT / missing).unlink()
        hub.repositories[f"studio/{name}"] = hub.repositories["studio/safe"]
    loaded = loader.load(f"studio/{name}")
    assert loaded.get("revision") == COMMIT, loaded
    assert loaded["progress"][-1:] == ([1.0] if missing else [])


@pytest.mark.parametrize(
    ("checkpoint", "revision", "error_code", "words"),
    [
        ("gated/no-token", None, GATED, "gated. Set HF_TOKEN"),
        ("gated/no-access", None, GATED, "no access yet. Ask for access"),
        ("nobody/nothing", None, CHECKPOINT_NOT_FOUND, "no model nobody/nothing"),
        ("studio/safe", "v9", CHECKPOINT_NOT_FOUND, "no revision 'v9'"),
        ("not an id!", None, CHECKPOINT_NOT_FOUND, "neither a folder nor a hub id"),
        ("broken/hub", None, HUB_UNREACHABLE, "The hub answered 503"),
        ("studio/other", None, CHECKPOINT_UNSUPPORTED, "not a MusicGen model"),
    ],
)
def test_every_refusal_has_its_own_sentence(
    loader: Loader, checkpoint: str, revision: str | None, error_code: str, words: str
) -> None:
    answer = loader.load(checkpoint, revision)
    assert answer.get("error_code") == error_code, answer
    assert words in answer["message"]
    assert answer["message"].endswith(".")


def test_a_hub_that_is_not_there(hub: FakeHub, loader: Loader) -> None:
    # Last of all: the fake hub stops. What was fetched before stays usable.
    hub.shutdown()
    hub.server_close()
    answer = loader.load("studio/unknown")
    assert answer["error_code"] == HUB_UNREACHABLE
    assert "is not on this machine and the hub cannot be reached" in answer["message"]
    assert loader.load("studio/old")["revision"] == COMMIT
