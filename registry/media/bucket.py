"""Files in a bucket of storage that speaks S3, by django-storages. Imported only where one is configured.

An upload is there whole or not at all, and everything else is one request; what fails is told as MediaAway.
"""

from __future__ import annotations

import errno
import logging
import mimetypes
import secrets
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from django.conf import settings
from storages.backends.s3 import S3Storage

from registry.media import AWAY_OPENING, MediaAway
from registry.media.files import ASIDE, ON_THE_WAY, Found, NotOurs

logger = logging.getLogger(__name__)

#: In one piece up to this size: takes are, and an upload in parts that is cut off leaves parts behind.
_ONE_PIECE_BYTES: Final = 64 * 1024 * 1024
_BLOCK_BYTES: Final = 1024 * 1024
#: How S3 and its kin say that a key is not there.
_ABSENT: Final = frozenset({"404", "NoSuchKey", "NotFound"})
#: What anybody who configures a bucket gets wrong, and what to do about it.
_ADVICE: Final = {
    "NoSuchBucket": "There is no such bucket: make it, or correct MUSICGEN_MEDIA_URL.",
    "403": "It refuses the studio: check the credentials and what they may do.",
    "AccessDenied": "It refuses the studio: check what the credentials may do.",
    "InvalidAccessKeyId": "It does not know the credentials: check AWS_ACCESS_KEY_ID.",
    "SignatureDoesNotMatch": "It refuses the credentials: check AWS_SECRET_ACCESS_KEY.",
}
_NO_ANSWER: Final = (
    "It does not answer: check the network, the endpoint in MUSICGEN_MEDIA_URL and the storage itself."
)


def client_config(*, addressing_style: str) -> Config:
    """Bounds on waiting, and nothing that only Amazon's own storage understands."""
    return Config(
        connect_timeout=3,
        read_timeout=15,
        retries={"total_max_attempts": 2, "mode": "standard"},
        max_pool_connections=50,
        signature_version="s3v4",
        s3={"addressing_style": addressing_style},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )


_lock = threading.Lock()
_clients: dict[tuple[str | None, ...], Any] = {}


class BucketMedia(S3Storage):
    """`settings.STORAGES` names bucket, prefix, endpoint and region; credentials are where boto3 looks for them."""

    is_remote = True

    def __init__(self, *, addressing_style: str, **options: Any) -> None:
        super().__init__(
            **options,
            client_config=client_config(addressing_style=addressing_style),
            transfer_config=TransferConfig(multipart_threshold=_ONE_PIECE_BYTES, max_concurrency=4),
            default_acl=None,
            file_overwrite=True,
        )

    @property
    def _client(self) -> Any:
        # One for all threads and for both kinds, which a client allows: to make one takes 50 ms.
        login = (self.access_key, self.secret_key, self.security_token, self.session_profile)
        place = (self.endpoint_url, self.region_name, str(self.client_config.s3), *login)
        with _lock:
            if place not in _clients:
                with self._told("The bucket"):
                    _clients[place] = self.connection.meta.client
            return _clients[place]

    # --- What media do ---

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A path of this machine's own, uploaded once the block has ended well."""
        self._key(name)
        with self._scratch(name) as path:
            yield path
            kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
            with self._told(name):
                self._client.upload_file(
                    str(path),
                    self.bucket_name,
                    self._key(name),
                    ExtraArgs={"ContentType": kind},
                    Config=self.transfer_config,
                )

    def opened(self, name: str) -> OpenedObject:
        """The object, once it is known to be there. Raises FileNotFoundError."""
        return OpenedObject(self, name, self._size(name))

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A copy that goes with the block. Raises FileNotFoundError."""
        with self._scratch(name) as path:
            self.copy_to(name, path)
            yield path

    def copy_to(self, name: str, path: Path) -> None:
        """Write the object's bytes to a file. Raises FileNotFoundError."""
        with path.open("wb") as target, self.stream(name) as source:
            shutil.copyfileobj(source, target, _BLOCK_BYTES)

    def exists(self, name: str) -> bool:
        """Whether the object is there."""
        try:
            self._size(name)
        except FileNotFoundError:
            return False
        return True

    def entries(self, prefixes: Sequence[str] = ("",), *, aside: bool = False) -> list[Found]:
        """Objects whose names begin with one of the prefixes, a thousand a request."""
        found, now = [], datetime.now(tz=UTC)
        folder = self._key("x", aside=aside)[:-1]
        with self._told("The list of files"):
            for prefix in prefixes:
                pages = self._client.get_paginator("list_objects_v2").paginate(
                    Bucket=self.bucket_name, Prefix=f"{folder}{prefix}", Delimiter="/"
                )
                for page in pages:
                    for each in page.get("Contents", ()):
                        if name := each["Key"].removeprefix(folder):
                            age = (now - each["LastModified"]).total_seconds()
                            found.append(Found(name, each["Size"], age, is_file=True))
        return found

    def remove(self, name: str, *, aside: bool = False) -> int:
        """Delete the object and answer the bytes it had."""
        try:
            size = self._size(name, aside=aside)
        except FileNotFoundError:
            return 0
        with self._told(name):
            self._client.delete_object(Bucket=self.bucket_name, Key=self._key(name, aside=aside))
        return size

    def set_aside(self, name: str) -> int:
        """Copy it, in the storage, and delete it. Cut off in between it is there twice, and set aside again."""
        try:
            size = self._size(name)
        except FileNotFoundError:
            return 0
        source = {"Bucket": self.bucket_name, "Key": self._key(name)}
        with self._told(name):
            self._client.copy(source, self.bucket_name, self._key(name, aside=True))
            self._client.delete_object(**source)
        return size

    def probe(self) -> None:
        """List, write a small object and delete it."""
        self.ping()
        # Of one name: a bucket that keeps versions gathers no others.
        key = {"Bucket": self.bucket_name, "Key": self._key("probe.txt")}
        with self._told("A trial file"):
            self._client.put_object(
                **key, Body=b"MusicGen Studio can write here.\n", ContentType="text/plain"
            )
            self._client.delete_object(**key)

    def ping(self) -> None:
        """List one object at most. (The answer to a question for the bucket alone would not say what is wrong.)"""
        with self._told("The bucket"):
            self._client.list_objects_v2(Bucket=self.bucket_name, Prefix=self._key("x")[:-1], MaxKeys=1)

    def path(self, name: str) -> str:
        """It has no place on this machine."""
        raise NotImplementedError(f"{name} lies in the bucket {self.bucket_name}.")

    # --- Requests ---

    def stream(self, name: str, start: int = 0, end: int | None = None) -> ObjectStream:
        """The bytes from `start` to `end`, both included, as they arrive. Raises FileNotFoundError."""
        wanted = {"Range": f"bytes={start}-{'' if end is None else end}"} if start or end is not None else {}
        with self._told(name):
            answer = self._client.get_object(Bucket=self.bucket_name, Key=self._key(name), **wanted)
        return ObjectStream(self, name, answer["Body"])

    def _size(self, name: str, *, aside: bool = False) -> int:
        with self._told(name):
            answer = self._client.head_object(Bucket=self.bucket_name, Key=self._key(name, aside=aside))
        return int(answer["ContentLength"])

    def _key(self, name: str, *, aside: bool = False) -> str:
        if not name or name.startswith(".") or "/" in name or "\\" in name or not name.isprintable():
            raise NotOurs(name)
        key: str = self._normalize_name(f"{ASIDE}/{name}" if aside else name)
        return key

    @contextmanager
    def _scratch(self, name: str) -> Iterator[Path]:
        """A new path of this machine; the clean-up removes what a killed process left there."""
        folder: Path = settings.STUDIO.scratch_folder / f"{ON_THE_WAY}{secrets.token_hex(6)}"
        folder.mkdir(mode=0o700, parents=True)
        try:
            yield folder / name
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn what the libraries raise into FileNotFoundError and MediaAway."""
        try:
            yield
        except ClientError as problem:
            code = str(problem.response.get("Error", {}).get("Code", ""))
            if code in _ABSENT:
                raise FileNotFoundError(errno.ENOENT, "It is not in the bucket", what) from problem
            raise self._away(
                _ADVICE.get(code, f"It answers with the error {code[:60]}."), what, problem
            ) from problem
        except (BotoCoreError, Boto3Error, HTTPClientError) as problem:
            cause: BaseException = problem.__context__ if isinstance(problem, Boto3Error) else problem
            if isinstance(cause, ClientError):  # an upload that was refused
                with self._told(what):
                    raise cause from problem
            raise self._away(_advice_of(problem), what, problem) from problem

    def _away(self, advice: str, what: str, problem: Exception) -> MediaAway:
        return MediaAway(
            f"{AWAY_OPENING}, the bucket {self.bucket_name}, cannot be used now. {advice}",
            f"{what}: {type(problem).__name__}: {problem}",
        )


def _advice_of(problem: Exception) -> str:
    if type(problem).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        return "There are no credentials for it: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
    return _NO_ANSWER


class OpenedObject:
    """An object that was there a moment ago; each stream of it is a request of its own."""

    def __init__(self, media: BucketMedia, name: str, size_bytes: int) -> None:
        self._media, self._name = media, name
        self.size_bytes = size_bytes

    def stream(self, start: int = 0, length: int | None = None) -> BinaryIO:
        """Ask for that part of it, which must not be empty. Raises FileNotFoundError where it is gone, MediaAway."""
        end = None if length is None else start + length - 1
        return cast(BinaryIO, self._media.stream(self._name, start, end))

    def close(self) -> None:
        """Nothing is held."""


class ObjectStream:
    """The body of one answer, read in blocks. Closing it early drops the connection."""

    def __init__(self, media: BucketMedia, name: str, body: Any) -> None:
        self._media, self._name, self._body = media, name, body

    def read(self, size: int = -1) -> bytes:
        """The next bytes, fewer than `size` only at the end. Raises MediaAway."""
        blocks, left = [], size
        with self._media._told(self._name):
            while left and (block := self._body.read(None if size < 0 else left)):
                blocks.append(block)
                left -= len(block)
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    def close(self) -> None:
        """Let go of the connection."""
        self._body.close()

    def __enter__(self) -> ObjectStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
