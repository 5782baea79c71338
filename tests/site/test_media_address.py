"""MUSICGEN_MEDIA_URL: what it may say, and that it never says a secret."""

import pytest

from musicgen_site.media_address import MediaAddress, media_storages, parse_media_url


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("s3://takes", MediaAddress("takes")),
        ("s3://takes/", MediaAddress("takes")),
        (
            "s3://my.takes/studio/one/?region=eu-central-1",
            MediaAddress("my.takes", "studio/one", region="eu-central-1"),
        ),
        (
            "s3://takes/a?endpoint=http://storage.lan:9000",
            MediaAddress("takes", "a", "http://storage.lan:9000", addressing="path"),
        ),
        (
            "s3://takes?endpoint=https%3A%2F%2Fx.example&addressing=virtual",
            MediaAddress("takes", "", "https://x.example", addressing="virtual"),
        ),
    ],
)
def test_an_address_is_understood(url: str, found: MediaAddress) -> None:
    assert parse_media_url(url) == found


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("https://takes.s3.amazonaws.com/", "not understood. It looks like s3://bucket/prefix"),
        ("s3://", "not understood"),
        ("s3://takes/../other", "The prefix is made of"),
        ("s3://key:very-secret@takes", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"),
        ("s3://takes?key=very-secret", "The address knows addressing, endpoint, region, and not key"),
        ("s3://takes?endpoint=storage.lan", "The endpoint is the address of the storage itself"),
        ("s3://takes?endpoint=http://u:very-secret@x", "The endpoint is the address of the storage itself"),
        ("s3://takes?addressing=odd", "addressing is one of auto, path, virtual"),
        ("s3://takes?nonsense", "not understood"),
    ],
)
def test_a_wrong_address_is_refused(url: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        parse_media_url(url)
    assert "very-secret" not in str(refused.value)


def test_without_one_files_lie_in_the_home() -> None:
    assert {name: storage["OPTIONS"] for name, storage in media_storages(None).items()} == {
        "takes": {"folder": "takes"},
        "clips": {"folder": "clips"},
        "live": {"folder": "live"},
        "adapters": {"folder": "adapters"},
    }
