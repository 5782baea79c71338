"""A small Hugging Face hub on loopback, with a store of large files at another host, and faults to switch on.

    with FakeHub({"studio/dwarf": folder}) as hub:
        hub.slow(bytes_per_second=50_000)
        ...  # HF_ENDPOINT=hub.endpoint, or hub.environment(home) for a process

Answers as the real one does: listings, HEAD and GET with ranges, redirects for large files, codes of refusals.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".model")
#: The one token that the hub knows from the start.
TOKEN = "hf_known"


@dataclass(frozen=True)
class Request:
    """One request as it came in, and how many bytes of a body went out for it."""

    method: str
    path: str
    headers: Mapping[str, str]
    is_of_store: bool
    sent: list[int] = field(default_factory=list)  # grows while the body goes out

    @property
    def range(self) -> str | None:
        return self.headers.get("range")

    @property
    def sent_bytes(self) -> int:
        return sum(self.sent)


@dataclass
class Fault:
    """Something that goes wrong with requests whose path `path` is found in, `times` times or always."""

    kind: str  # the verb below that switched it on
    path: str
    times: int | None
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    bytes_per_second: float = 0.0
    break_at: float = 0.0


@dataclass
class Repository:
    """Commits with their files, branches and tags, and who may read them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    is_gated: bool = False
    allowed: set[str] = field(default_factory=set)


def blob_hashes(content: bytes) -> tuple[str, str]:
    """Git's hash of a small file, and the sha256 of a large one."""
    return sha1(b"blob %d\0" % len(content) + content).hexdigest(), sha256(content).hexdigest()


class FakeHub:
    """The hub. `requests` keeps every request, those to the store of large files too."""

    def __init__(self, repositories: Mapping[str, Path | Mapping[str, bytes]] | None = None) -> None:
        self.repositories: dict[str, Repository] = {}
        self.tokens = {TOKEN}
        self.moved: dict[str, str] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self._lock = threading.Lock()
        self._hub = _Server(self, is_store=False)
        self._store = _Server(self, is_store=True)
        self._is_running = False
        # The store has a host name of its own, as the real one does.
        self.endpoint = f"http://127.0.0.1:{self._hub.server_address[1]}"
        self.store = f"http://localhost:{self._store.server_address[1]}"
        for repo_id, files in (repositories or {}).items():
            self.publish(repo_id, files)

    def __enter__(self) -> FakeHub:
        for server in (self._hub, self._store):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self._is_running = True
        return self

    def __exit__(self, *exception: object) -> None:
        self.refuse_connections()

    def environment(self, home: Path) -> dict[str, str]:
        """What a process needs in its environment to use this hub, with an empty cache below `home`."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_HUB_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0",
            "HF_TOKEN": "",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    # --- what it holds ---

    def publish(self, repo_id: str, files: Path | Mapping[str, bytes], *, ref: str = "main") -> str:
        """Make these files the newest commit of a branch, and answer the commit."""
        if isinstance(files, Path):
            files = {each.name: each.read_bytes() for each in files.iterdir() if each.is_file()}
        summary = json.dumps({name: blob_hashes(content)[0] for name, content in sorted(files.items())})
        commit = sha1(f"{repo_id} {ref} {summary}".encode()).hexdigest()
        repository = self.repositories.setdefault(repo_id, Repository())
        repository.commits[commit] = dict(files)
        repository.refs[ref] = commit
        return commit

    def gate(self, repo_id: str, *, allowed: set[str] | None = None) -> None:
        """Open a repository's files only to these tokens."""
        self.repositories[repo_id].is_gated = True
        self.repositories[repo_id].allowed = allowed or set()

    def rename(self, old: str, new: str) -> None:
        """Move a repository; requests for the old name are sent on, as after a rename on the real hub."""
        self.repositories[new] = self.repositories.pop(old)
        self.moved[old] = new

    # --- what goes wrong ---

    def slow(self, bytes_per_second: float, *, path: str = "", times: int | None = None) -> None:
        """Send bodies no faster than this."""
        self.faults.append(Fault("slow", path, times, bytes_per_second=bytes_per_second))

    def break_off(self, *, at: float = 0.5, path: str = r"\.safetensors", times: int | None = 1) -> None:
        """Close the connection after this part of a whole file, or at once where an earlier part is not asked for."""
        self.faults.append(Fault("break off", path, times, break_at=at))

    def damage(self, *, path: str = r"\.safetensors", times: int | None = None) -> None:
        """Send wrong bytes, as many as are right."""
        self.faults.append(Fault("damage", path, times))

    def shorten(self, *, path: str = r"\.safetensors", times: int | None = None) -> None:
        """Send half a file as though it were whole."""
        self.faults.append(Fault("shorten", path, times))

    def ignore_ranges(self, *, path: str = "") -> None:
        """Answer every request for a part with the whole file."""
        self.faults.append(Fault("ignore ranges", path, None))

    def answer(
        self,
        status: int,
        *,
        path: str = "",
        times: int | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        """Answer with this status."""
        self.faults.append(Fault("answer", path, times, status=status, headers=headers or {}, body=body))

    def limit_rate(self, *, retry_after: str | None = "30", path: str = "", times: int | None = None) -> None:
        """Answer 429."""
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        self.answer(429, path=path, times=times, headers=headers)

    def send_web_page(self, *, path: str = "", times: int | None = None) -> None:
        """Answer 200 and a web page, as a network that asks for a login does."""
        page = b"<!doctype html><title>Welcome to the hotel</title><p>Please log in."
        self.answer(
            200, path=path, times=times, headers={"Content-Type": "text/html; charset=utf-8"}, body=page
        )

    def refuse_connections(self) -> None:
        """Stop: from now on nobody listens."""
        if self._is_running:
            self._is_running = False
            for server in (self._hub, self._store):
                server.shutdown()
                server.server_close()

    def heal(self) -> None:
        """End all faults."""
        self.faults.clear()

    # --- what was asked ---

    def forget_requests(self) -> None:
        """Start counting anew."""
        self.requests.clear()

    def fetched(self, name: str = "") -> list[Request]:
        """The requests that were answered with bytes of a file, of one name or of any."""
        return [each for each in self.requests if each.sent and each.path.endswith(name)]

    def fetched_names(self) -> set[str]:
        """The files of which bytes were sent."""
        return {each.path.rsplit("/", 1)[1] for each in self.fetched()}

    def _applying(self, kind: str, path: str) -> Fault | None:
        """The first fault of a kind for that path, counted as used."""
        with self._lock:
            for fault in self.faults:
                if fault.kind == kind and fault.times != 0 and re.search(fault.path, path):
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, hub: FakeHub, *, is_store: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        self.is_store = is_store


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self) -> None:
        hub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.request_seen = Request(self.command, path, headers, self.server.is_store)
        hub.requests.append(self.request_seen)
        with suppress(BrokenPipeError, ConnectionResetError):  # whoever asked has left
            fault = hub._applying("answer", path)
            if fault is not None:
                return self._send(fault.status, fault.body, fault.headers)
            if self.server.is_store:
                return self._answer_from_store(path)
            return self._answer_from_hub(path)
        return None

    # --- the hub ---

    def _answer_from_hub(self, path: str) -> None:
        hub = self.server.hub
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in hub.tokens:
            message = {"X-Error-Message": "Invalid credentials in Authorization header"}
            return self._send(401, b"{}", message)
        is_listing = path.startswith("/api/models/")
        separator = r"/(revision|tree)/" if is_listing else r"/(resolve)/"
        repo_id, *rest = re.split(separator, path.removeprefix("/api/models/").strip("/"), maxsplit=1)
        if repo_id in hub.moved:
            return self._send(307, b"", {"Location": self.path.replace(repo_id, hub.moved[repo_id], 1)})
        repository = hub.repositories.get(repo_id)
        if repository is None:
            return self._refuse(404 if token else 401, "RepoNotFound")
        if is_listing:
            kind, revision = rest or ("revision", "main")
            commit = repository.refs.get(revision, revision)
            if commit not in repository.commits:
                return self._refuse(404, "RevisionNotFound")
            return self._send_listing(repo_id, repository, commit, kind)
        if len(rest) != 2:
            return self._refuse(404, "EntryNotFound")
        if repository.is_gated and token not in repository.allowed:
            return self._refuse(403 if token else 401, "GatedRepo")
        revision, _, name = rest[1].partition("/")
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            return self._refuse(404, "RevisionNotFound")
        content = repository.commits[commit].get(name)
        if content is None:
            return self._refuse(404, "EntryNotFound")
        git_sha1, linked_sha256 = blob_hashes(content)
        if not name.endswith(LARGE):
            return self._send_file(path, content, {"ETag": f'"{git_sha1}"', "X-Repo-Commit": commit})
        linked = {
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{linked_sha256}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"{hub.store}/store/{repo_id}/{commit}/{name}?signature=secret",
        }
        return self._send(302, b"", linked)

    def _send_listing(self, repo_id: str, repository: Repository, commit: str, kind: str) -> None:
        siblings, tree = [], []
        for name, content in sorted(repository.commits[commit].items()):
            git_sha1, linked_sha256 = blob_hashes(content)
            sibling: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_sha1}
            entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": git_sha1}
            if name.endswith(LARGE):
                sibling["lfs"] = {"sha256": linked_sha256, "size": len(content), "pointerSize": 134}
                entry["lfs"] = {"oid": linked_sha256, "size": len(content), "pointerSize": 134}
            siblings.append(sibling)
            tree.append(entry)
        facts = {"id": repo_id, "modelId": repo_id, "sha": commit, "siblings": siblings, "private": False}
        gated = "auto" if repository.is_gated else False
        listing = json.dumps(tree if kind == "tree" else {**facts, "gated": gated})
        self._send(200, listing.encode(), {"Content-Type": "application/json; charset=utf-8"})

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b'{"error": "refused"}', {"X-Error-Code": code})

    # --- files ---

    def _answer_from_store(self, path: str) -> None:
        _, _, owner, repo, commit, name = path.split("/", 5)
        content = self.server.hub.repositories[f"{owner}/{repo}"].commits[commit][name]
        self._send_file(path, content, {"ETag": f'"{sha256(content).hexdigest()}"'})

    def _send_file(self, path: str, content: bytes, headers: dict[str, str]) -> None:
        hub = self.server.hub
        headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if hub._applying("shorten", path):
            content = content[: len(content) // 2]
        if hub._applying("damage", path):
            content = bytes(byte ^ 0x55 for byte in content)
        status, first = 200, 0
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        last = len(content) - 1
        if wanted and not hub._applying("ignore ranges", path):
            first, last = int(wanted[1]), int(wanted[2] or last)
            if first >= len(content):
                return self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            status = 206
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        body = content[first : last + 1]
        self._send_head(status, {**headers, "Content-Length": str(len(body))})
        if self.command == "HEAD":
            return None
        fault = hub._applying("break off", path)
        if fault is not None:
            body = body[: max(0, int(len(content) * fault.break_at) - first)]
        pace = hub._applying("slow", path)
        for piece in _pieces(body, pace.bytes_per_second if pace else None):
            self.wfile.write(piece)
            self.request_seen.sent.append(len(piece))
        if fault is not None:
            self.close_connection = True
            self.wfile.flush()
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        return None

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self._send_head(status, {"Content-Length": str(len(body)), **headers})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _pieces(body: bytes, bytes_per_second: float | None) -> Iterator[bytes]:
    size = 65_536 if bytes_per_second is None else max(1, int(bytes_per_second / 20))
    for start in range(0, len(body), size):
        yield body[start : start + size]
        if bytes_per_second is not None:
            time.sleep(0.05)
