"""Where webhooks may lead, and that nothing makes one lead elsewhere: names, redirects, slowness, disguises."""

import socket
import ssl
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from generation.webhooks import sending
from generation.webhooks.addresses import AddressRefused, Allowed, is_public, parse_target, resolve
from generation.webhooks.sending import SendFailed, post
from generation.webhooks.signing import new_secret, signed_headers
from tests.generation.receiver import Receiver, make_certificate, receiving

NOTHING = Allowed.parse(())
LOOPBACK = Allowed.parse(("127.0.0.0/8",))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


def names_mean(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let every name mean these addresses, one list a question; the last one stays. Returns the questions."""
    asked: list[str] = []
    left = list(answers)

    def answer(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        addresses = left.pop(0) if len(left) > 1 else left[0]
        return [
            (socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in addresses
        ]

    monkeypatch.setattr("generation.webhooks.addresses.socket.getaddrinfo", answer)
    return asked


# Which addresses are public.


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "100.100.100.200", "192.0.0.192", "198.18.0.1", "224.0.0.1", "240.0.0.1",
        "255.255.255.255", "168.63.129.16", "192.88.99.1",
        "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "2001:db8::1", "100::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1",
        "64:ff9b::a00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a9fe:a9fe::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    ],
)  # fmt: skip
def test_an_address_of_the_inside_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(ip_address(address))


# How an address may be written.


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("ftp://example.org/", "Write an address that begins with https://"),
        ("file:///etc/passwd", "Write an address that begins with https://"),
        ("example.org/hook", "Write an address that begins with https://"),
        ("https://", "Write an address that begins with https://"),
        ("https://alice:secret@example.org/", "may hold no user name"),
        (" ", "Write the address that is to hear of your jobs"),
        ("https://example.org/a b", "ASCII only, without spaces"),
        ("https://example.org/\r\nX: y", "ASCII only, without spaces"),
        ("https://bücher.example/", "ASCII only, without spaces"),
        ("https://example.org\\@127.0.0.1/", "ASCII only, without spaces"),
        ("https://exa$mple.org/", "is not the name of a host"),
        ("https://example.org:0/", "Port 0"),
        ("https://example.org:99999/", "This is no address"),
        ("https://[::1/", "This is no address"),
        ("https://example.org/" + "a" * 500, "has 520 characters and the limit is 500"),
        ("http://example.org/", "Use https://"),
        ("https://127.0.0.1/", "leads to no public host"),
        ("https://[::ffff:127.0.0.1]/", "leads to no public host"),
        ("https://169.254.169.254/latest/meta-data/", "leads to no public host"),
    ],
)
def test_an_address_that_can_never_be_called_is_refused_with_a_sentence(url: str, sentence: str) -> None:
    with pytest.raises(AddressRefused, match=sentence.replace("[", r"\[")):
        parse_target(url, NOTHING)


def test_an_address_is_taken_apart() -> None:
    target = parse_target("https://Hooks.Example.org.:8443/a/b?c=d", NOTHING)
    assert (target.host, target.port, target.path) == ("hooks.example.org", 8443, "/a/b?c=d")
    assert target.authority == "hooks.example.org:8443"
    assert parse_target("https://[2606:4700::1111]/", NOTHING).authority == "[2606:4700::1111]"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/", "http://[::1]/", "http://hooks.lan/", "https://10.1.1.1/"]
)
def test_what_the_operator_allows_may_be_inside_and_plain(url: str) -> None:
    allowed = Allowed.parse(("127.0.0.0/8", "::1", "hooks.lan", "10.0.0.0/8"))
    assert parse_target(url, allowed).scheme in url


def test_what_the_operator_allows_is_checked() -> None:
    with pytest.raises(ValueError, match="neither a host name nor a network"):
        Allowed.parse(("10.0.0.0/33",))


# What a name means.


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["::ffff:10.0.0.1"], ["fe80::1%eth0"], []]
)
def test_a_name_that_leads_inside_is_refused(addresses: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    names_mean(monkeypatch, addresses)
    with pytest.raises(AddressRefused, match="leads to no public host"):
        resolve(parse_target("https://example.org/", NOTHING), NOTHING)


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "0177.0.0.1", "localhost"])
def test_numbers_in_disguise_are_judged_by_what_they_mean(host: str) -> None:
    with pytest.raises(AddressRefused, match="leads to no public host"):
        resolve(parse_target(f"https://{host}/", NOTHING), NOTHING)


def test_a_name_that_is_unknown_reads_like_one_of_the_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror

    monkeypatch.setattr("generation.webhooks.addresses.socket.getaddrinfo", unknown)
    with pytest.raises(AddressRefused, match="leads to no public host"):
        resolve(parse_target("https://example.org/", NOTHING), NOTHING)


def test_plain_http_is_for_what_is_allowed_whatever_the_name_means(monkeypatch: pytest.MonkeyPatch) -> None:
    names_mean(monkeypatch, ["8.8.8.8"])
    target = parse_target("http://example.org/", LOOPBACK)
    with pytest.raises(AddressRefused):
        resolve(target, LOOPBACK)


def test_a_name_that_changes_its_meaning_is_not_followed(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answer is judged and called; what the name means a moment later is never asked."""
    asked = names_mean(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
    called: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        called.append(address)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(SendFailed):
        post(f"https://example.org:{receiver.port}/", b"{}", {}, allowed=NOTHING)
    assert (asked, called) == (["example.org"], [("93.184.216.34", receiver.port)])


# A request.


def test_a_message_arrives_as_it_was_sent(receiver: Receiver) -> None:
    headers = {"Content-Type": "application/json", "webhook-id": "msg_1"}
    assert post(receiver.url, b'{"a": 1}', headers, allowed=LOOPBACK) == 204
    (request,) = receiver.received
    assert (request.method, request.path, request.body) == ("POST", "/hook?key=1", b'{"a": 1}')
    assert request.headers["Host"] == f"127.0.0.1:{receiver.port}"
    assert request.headers["webhook-id"] == "msg_1"
    assert request.headers["Content-Length"] == "8"


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    receiver.answers, receiver.location = [302], f"http://127.0.0.1:{receiver.port}/inside"
    assert post(receiver.url, b"{}", {}, allowed=LOOPBACK) == 302
    assert [request.path for request in receiver.received] == ["/hook?key=1"]


def test_a_proxy_of_the_environment_is_not_asked(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert post(receiver.url, b"{}", {}, allowed=LOOPBACK) == 204


@pytest.mark.parametrize("answer", ["drips", "says nothing", "never ends its headers"])
def test_a_slow_receiver_is_given_up_in_time(
    answer: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "DEADLINE", 0.5)
    if answer == "says nothing":
        receiver.may_answer.clear()
    elif answer == "drips":
        receiver.answers = [b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 1000]
    else:
        receiver.answers = [b"HTTP/1.1 200 OK\r\n" + b"X-Slow: a\r\n" * 100]
    began = time.monotonic()
    with pytest.raises(SendFailed, match=r"did not answer within 0\.5 seconds"):
        post(receiver.url, b"{}", {}, allowed=LOOPBACK)
    assert time.monotonic() - began < 3


def test_what_is_no_web_server_is_told_so(receiver: Receiver) -> None:
    receiver.answers = [b"220 mail.example ESMTP\r\n\r\n"]
    with pytest.raises(SendFailed, match="did not answer as a web server does"):
        post(receiver.url, b"{}", {}, allowed=LOOPBACK)


def test_nobody_listens() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with pytest.raises(SendFailed, match="could not be reached"):
        post(f"http://127.0.0.1:{port}/", b"{}", {}, allowed=LOOPBACK)


def test_the_certificate_is_of_the_name_though_an_address_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path / "hooks.pem", "hooks.test")
    names_mean(monkeypatch, ["127.0.0.1"])
    with receiving(certificate=certificate) as receiver:

        def call(name: str) -> int:
            return post(f"https://{name}:{receiver.port}/", b"{}", {}, allowed=LOOPBACK)

        with pytest.raises(SendFailed, match="certificate is not valid"):
            call("hooks.test")
        monkeypatch.setattr(sending, "_trust", lambda: ssl.create_default_context(cafile=str(certificate)))
        assert call("hooks.test") == 204
        with pytest.raises(SendFailed, match="certificate is not valid"):
            call("other.test")


# The signature.


def test_the_signature_is_the_standard_s() -> None:
    """The test vector that its libraries share."""
    headers = signed_headers(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-id"] == "msg_p5jXN8AQM9LWM0D4loKWxJek"
    assert headers["webhook-timestamp"] == "1614265330"


def test_secrets_differ() -> None:
    assert new_secret() != new_secret()
    assert len(new_secret()) == len("whsec_") + 44
