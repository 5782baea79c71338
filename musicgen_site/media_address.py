"""The address of a bucket, as in `s3://bucket/prefix?endpoint=https://storage.example&region=eu-central-1`.

Credentials have no place in it: boto3 finds them in the environment, in its files or by the machine's own role.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

_FORM: Final = (
    "It looks like s3://bucket/prefix, and may end in ?endpoint=https://storage.example&region=eu-central-1."
)
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]", re.ASCII | re.IGNORECASE)
_PREFIX: Final = re.compile(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+)*", re.ASCII)
_OPTIONS: Final = {"endpoint", "region", "addressing"}
_ADDRESSING: Final = ("auto", "path", "virtual")


@dataclass(frozen=True)
class MediaAddress:
    """Where a bucket is. An empty endpoint or region is what boto3 finds in the environment."""

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    addressing: str = "auto"


def parse_media_url(url: str) -> MediaAddress:
    """Understand MUSICGEN_MEDIA_URL. Raises ValueError with a sentence, which never repeats what may be a secret."""
    try:
        parts = urlsplit(url)
        has_login = parts.username is not None or parts.password is not None
        options = {
            name: values[-1]
            for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()
        }
    except ValueError:
        raise ValueError(f"The address is not understood. {_FORM}") from None
    if has_login:
        raise ValueError(
            "Keys do not belong in the address: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead."
        )
    bucket, prefix = parts.netloc, parts.path.strip("/")
    if parts.scheme != "s3" or not _BUCKET.fullmatch(bucket) or parts.fragment:
        raise ValueError(f"The address is not understood. {_FORM}")
    if prefix and not _PREFIX.fullmatch(prefix):
        raise ValueError(
            "The prefix is made of letters, digits, dots, dashes and slashes, as in s3://bucket/studio."
        )
    if unknown := sorted(options.keys() - _OPTIONS):
        raise ValueError(f"The address knows {', '.join(sorted(_OPTIONS))}, and not {unknown[0][:40]}.")
    endpoint = options.get("endpoint", "")
    if endpoint and not _is_endpoint(endpoint):
        raise ValueError(
            "The endpoint is the address of the storage itself, as in endpoint=http://storage.lan:9000."
        )
    addressing = options.get("addressing", "path" if endpoint else "auto")
    if addressing not in _ADDRESSING:
        raise ValueError(f"addressing is one of {', '.join(_ADDRESSING)}.")
    return MediaAddress(bucket, prefix, endpoint, options.get("region", ""), addressing)


def _is_endpoint(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and parts.username is None
        and not parts.query
        and not parts.fragment
    )


def media_storages(url: str | None) -> dict[str, Any]:
    """Django's STORAGES of takes, clips, live audio and weights: folders of the home, or below the prefix of a bucket."""
    kinds = ("takes", "clips", "live", "adapters")
    if url is None:
        return {
            kind: {"BACKEND": "registry.media.folder.FolderMedia", "OPTIONS": {"folder": kind}}
            for kind in kinds
        }
    address = parse_media_url(url)
    return {
        kind: {
            "BACKEND": "registry.media.bucket.BucketMedia",
            "OPTIONS": {
                "bucket_name": address.bucket,
                "location": f"{address.prefix}/{kind}" if address.prefix else kind,
                "endpoint_url": address.endpoint or None,
                "region_name": address.region or None,
                "addressing_style": address.addressing,
            },
        }
        for kind in kinds
    }
