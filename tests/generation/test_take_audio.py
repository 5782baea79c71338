"""`GET /api/takes/{id}/audio`: whole, in ranges, in every format, and for its owner only."""

import io
import urllib.parse
from typing import Any

import pytest
import soundfile
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from generation import audio_files
from generation.audio_response import RangeNotSatisfiable, parse_range
from generation.models import Take
from generation.services import takes
from tests.generation.music import make_take
from tests.media_files import take_file

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


@pytest.fixture
def take(owner: User, home: Any) -> Take:
    """A take of a second, 32 kB of file."""
    return make_take(owner)


def body(answer: Any) -> bytes:
    """The content of an answer; takes are streamed by an asynchronous iterator."""
    if not answer.streaming:
        return bytes(answer.content)

    async def read() -> bytes:
        return b"".join([part async for part in answer])

    return async_to_sync(read)()


def test_the_whole_file(take: Take, client: Client) -> None:
    answer = client.get(take.audio_url)
    content = take_file(take).read_bytes()
    assert answer.status_code == 200
    assert body(answer) == content
    assert answer["Content-Type"] == "audio/wav"
    assert answer["Content-Length"] == str(len(content))
    assert answer["Accept-Ranges"] == "bytes"
    assert "Content-Disposition" not in answer
    assert "private" in answer["Cache-Control"]
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-99", 0, 99),
        ("bytes=100-199", 100, 199),
        ("bytes=100-", 100, -1),
        ("bytes=-100", -100, -1),
        ("bytes=0-", 0, -1),
        ("bytes=0-999999999", 0, -1),
        ("bytes=-999999999", 0, -1),
        (" bytes=5-6 ", 5, 6),
    ],
)
def test_a_range_of_it(header: str, first: int, last: int, take: Take, client: Client) -> None:
    content = take_file(take).read_bytes()
    size = len(content)
    start, end = first % size, last % size
    answer = client.get(take.audio_url, headers={"Range": header})
    assert answer.status_code == 206
    assert body(answer) == content[start : end + 1]
    assert answer["Content-Range"] == f"bytes {start}-{end}/{size}"
    assert answer["Content-Length"] == str(end - start + 1)


@pytest.mark.parametrize("header", ["bytes=99999999-", "bytes=99999999-100000000", "bytes=-0"])
def test_a_range_after_the_end(header: str, take: Take, client: Client) -> None:
    answer = client.get(take.audio_url, headers={"Range": header})
    assert answer.status_code == 416
    assert answer["Content-Range"] == f"bytes */{take.file_bytes}"
    assert body(answer) == b""


@pytest.mark.parametrize(
    "header",
    [
        "bytes=0-1,3-4", "bytes=", "bytes=-", "bytes=5-2", "bytes=a-b", "seconds=0-1", "bytes 0-1", "bytes=0-1;",
        "bytes=" + "9" * 50 + "-", "bytes=٠-٩", "bytes=--5",
    ],
)  # fmt: skip
def test_what_is_no_single_range_gets_the_whole_file(header: str, take: Take, client: Client) -> None:
    answer = client.get(take.audio_url, headers={"Range": header.encode().decode("latin-1")})
    assert answer.status_code == 200
    assert len(body(answer)) == take.file_bytes


@given(
    st.integers(0, 300),
    st.one_of(st.none(), st.integers(0, 400)),
    st.one_of(st.none(), st.integers(0, 400)),
)
def test_every_range_lies_inside_the_file(size: int, first: int | None, last: int | None) -> None:
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    try:
        wanted = parse_range(header, size)
    except RangeNotSatisfiable:
        assert size == 0 or (last == 0 if first is None else first >= size)
        return
    if wanted is not None:
        start, end = wanted
        assert 0 <= start <= end < size


def test_a_range_of_an_older_file_gets_the_whole_new_one(take: Take, client: Client) -> None:
    tag = client.get(take.audio_url)["ETag"]
    some = {"Range": "bytes=0-9"}
    assert client.get(take.audio_url, headers={**some, "If-Range": tag}).status_code == 206
    assert client.get(take.audio_url, headers={**some, "If-Range": '"other"'}).status_code == 200
    date = "Sat, 21 Nov 2026 12:00:00 GMT"
    assert client.get(take.audio_url, headers={**some, "If-Range": date}).status_code == 200


@pytest.mark.parametrize("header", ["{tag}", "W/{tag}", '"other", {tag}', "*"])
def test_what_the_browser_has_is_not_sent_again(header: str, take: Take, client: Client) -> None:
    tag = client.get(take.audio_url)["ETag"]
    answer = client.get(take.audio_url, headers={"If-None-Match": header.format(tag=tag)})
    assert answer.status_code == 304
    assert body(answer) == b""
    assert answer["ETag"] == tag


def test_another_tag_gets_the_file(take: Take, client: Client) -> None:
    assert client.get(take.audio_url, headers={"If-None-Match": '"other"'}).status_code == 200


def test_head_tells_the_size_and_sends_nothing(take: Take, client: Client) -> None:
    answer = client.head(take.audio_url)
    assert (answer.status_code, body(answer)) == (200, b"")
    assert answer["Content-Length"] == str(take.file_bytes)
    part = client.head(take.audio_url, headers={"Range": "bytes=0-9"})
    assert (part.status_code, part["Content-Length"]) == (206, "10")


@pytest.mark.parametrize("name", audio_files.FORMATS)
def test_every_format_plays_and_carries_the_recipe(
    name: str, take: Take, client: Client, tmp_path: Any
) -> None:
    answer = client.get(f"{take.audio_url}?format={name}")
    content = body(answer)
    assert answer["Content-Type"] == audio_files.FORMATS[name].media_type
    assert answer["Content-Length"] == str(len(content))
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        assert file.frames / file.samplerate == pytest.approx(1.0, abs=0.2)
    path = tmp_path / f"download.{name}"
    path.write_bytes(content)
    assert audio_files.read_recipe(path) == take.recipe
    some = client.get(f"{take.audio_url}?format={name}", headers={"Range": "bytes=10-19"})
    assert body(some) == content[10:20]


def test_each_format_has_a_tag_of_its_own(take: Take, client: Client) -> None:
    tags = {client.get(f"{take.audio_url}?format={name}")["ETag"] for name in audio_files.FORMATS}
    assert len(tags) == 4
    assert client.get(f"{take.audio_url}?format=WAV").status_code == 200


def test_an_unknown_format_is_refused(take: Take, client: Client) -> None:
    answer = client.get(f"{take.audio_url}?format=opus")
    assert answer.status_code == 400
    assert answer.json() == {
        "error": "'opus' is not a format. Choose one of: wav, flac, ogg, mp3.",
        "error_code": "UNKNOWN_FORMAT",
        "formats": ["wav", "flac", "ogg", "mp3"],
    }


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("My Song", "my-song"),
        ('"; rm -rf / "', "rm-rf"),
        ("a\r\nSet-Cookie: b=c", "a-set-cookie-bc"),
        ("../../etc/passwd", "etcpasswd"),
        ("Größe", "groe"),
        ("音楽 🎹", "take"),
        ("a" * 200, "a" * 60),
    ],
)
def test_a_download_is_named_after_the_title(title: str, name: str, take: Take, client: Client) -> None:
    Take.objects.update(title=title)
    answer = client.get(f"{take.audio_url}?format=flac&download=1")
    disposition = answer["Content-Disposition"]
    assert disposition.startswith("attachment; ")
    assert "\n" not in disposition
    assert "\r" not in disposition
    shown = urllib.parse.unquote(disposition.split("filename*=UTF-8''")[1])
    assert shown == f"{name}-{take.pk}.flac"
    assert "Set-Cookie" not in answer


@pytest.mark.parametrize("who", ["bob", "staff"])
def test_nobody_else_hears_it(
    who: str, alice: User, shared_mode: None, client: Client, request: pytest.FixtureRequest
) -> None:
    take = make_take(alice)
    client.force_login(request.getfixturevalue(who))
    for method in (client.get, client.head):
        assert method(take.audio_url).status_code == 404
    client.force_login(alice)
    assert client.get(take.audio_url).status_code == 200
    client.logout()
    assert client.get(take.audio_url).status_code == 401


def test_a_deleted_take_is_not_served(take: Take, client: Client) -> None:
    takes.delete_take(take)
    answer = client.get(take.audio_url)
    assert answer.status_code == 404
    assert answer.json()["error_code"] == "NOT_FOUND"
    takes.restore_take(take)
    assert client.get(take.audio_url).status_code == 200


@pytest.mark.parametrize("name", ["wav", "mp3"])
def test_a_missing_file_is_gone(name: str, take: Take, client: Client) -> None:
    take_file(take).unlink()
    answer = client.get(f"{take.audio_url}?format={name}")
    assert answer.status_code == 410
    assert answer.json()["error_code"] == "TAKE_FILE_MISSING"
    assert f"take {take.pk} is gone" in answer.json()["error"]


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_other_methods_are_refused(method: str, take: Take, client: Client) -> None:
    answer = getattr(client, method)(take.audio_url)
    assert answer.status_code == 405
    assert answer.json()["error_code"] == "METHOD_NOT_ALLOWED"
    assert Take.objects.kept().exists()
