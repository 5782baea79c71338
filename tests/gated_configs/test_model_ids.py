"""What people type for a model: ids, addresses of its pages, and what must never become a request."""

from __future__ import annotations

import string
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gated_configs.services.builtin import builtin_ids
from gated_configs.services.model_ids import InvalidModelId, hub_page, normalised_id

HUB = "https://huggingface.co"


@pytest.mark.parametrize(
    ("text", "model_id"),
    [
        ("facebook/musicgen-small", "facebook/musicgen-small"),
        ("  meta-llama/Llama-3.1-8B \n", "meta-llama/Llama-3.1-8B"),
        ("gpt2", "gpt2"),
        ("a_b/c.d-e_f", "a_b/c.d-e_f"),
        ("stabilityai/sd-x2-", "stabilityai/sd-x2-"),
        (f"{HUB}/meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        (f"{HUB}/meta-llama/Llama-3.1-8B/", "meta-llama/Llama-3.1-8B"),
        (f"{HUB}/meta-llama/Llama-3.1-8B/tree/main", "meta-llama/Llama-3.1-8B"),
        (f"{HUB}/meta-llama/Llama-3.1-8B/blob/main/config.json", "meta-llama/Llama-3.1-8B"),
        (f"{HUB}/meta-llama/Llama-3.1-8B/resolve/main/config.json?download=true", "meta-llama/Llama-3.1-8B"),
        (f"{HUB}/meta-llama/Llama-3.1-8B/discussions/3#abc", "meta-llama/Llama-3.1-8B"),
        (f"{HUB}/meta-llama/Llama-3.1-8B?library=transformers#usage", "meta-llama/Llama-3.1-8B"),
        (f"{HUB}/api/models/meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        (f"{HUB}/gpt2", "gpt2"),
        (f"{HUB}/gpt2/tree/main", "gpt2"),
        ("HTTPS://HuggingFace.co/gpt2", "gpt2"),
        ("http://huggingface.co/gpt2", "gpt2"),
        ("https://huggingface.co:443/gpt2", "gpt2"),
        ("https://www.huggingface.co/gpt2", "gpt2"),
        ("https://hf.co/gpt2", "gpt2"),
        ("hf.co/meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("huggingface.co/meta-llama/Llama-3.1-8B/tree/main", "meta-llama/Llama-3.1-8B"),
        ("meta-llama/Llama-3.1-8B/tree/main", "meta-llama/Llama-3.1-8B"),
        ("gpt2/blob/main/config.json", "gpt2"),
        # A bare name, or other letters, of a built-in one.
        ("musicgen-small", "facebook/musicgen-small"),
        ("MusicGen-Stereo-Large", "facebook/musicgen-stereo-large"),
        ("Facebook/musicgen-MELODY", "facebook/musicgen-melody"),
        ("somebody/musicgen-small", "somebody/musicgen-small"),
    ],
)
def test_an_id_or_an_address_becomes_an_id(text: str, model_id: str) -> None:
    assert normalised_id(text) == model_id
    assert normalised_id(model_id) == model_id


@pytest.mark.parametrize(
    ("text", "part_of_sentence"),
    [
        ("", "No model is named"),
        (" \t ", "No model is named"),
        ("a/b/c", "not the id of a model"),
        ("/a/b", "not the id of a model"),
        ("a//b", "not the id of a model"),
        ("a/b//", "not the id of a model"),
        ("../../etc/passwd", "not the id of a model"),
        ("a/..", "not the id of a model"),
        ("..", "not the id of a model"),
        (".", "not the id of a model"),
        ("a/.b", "not the id of a model"),
        ("a/b.", "not the id of a model"),
        ("-a/b", "not the id of a model"),
        ("a--b/c", "not the id of a model"),
        ("a/b..c", "not the id of a model"),
        ("a/b.git", "not the id of a model"),
        ("a/b%2fc", "not the id of a model"),
        ("a/b@main", "not the id of a model"),
        ("a/b:latest", "not the id of a model"),
        ("a/b;c", "not the id of a model"),
        (f"a/{'b' * 97}", "longer than 96 characters"),
        (f"{'a' * 97}/b", "longer than 96 characters"),
        ("a/" * 2000, "too long"),
        ("a b/c", "characters that no model"),
        ("a/b\nHost: evil", "characters that no model"),
        ("a/b\0", "characters that no model"),
        ("a/b\u202e", "characters that no model"),
        ("ａ/b", "characters that no model"),
        ("a\\b", "characters that no model"),
        ("datasets/squad", "a dataset"),
        ("datasets/a/b", "a dataset"),
        (f"{HUB}/datasets/rajpurkar/squad", "a dataset"),
        (f"{HUB}/spaces/a/b", "a space"),
        (f"{HUB}/papers/2306.05284", "a paper"),
        (f"{HUB}/docs/transformers", "a page of the hub"),
        (f"{HUB}/models", "a page of the hub"),
        (f"{HUB}/settings/tokens", "a page of the hub"),
        (f"{HUB}/", "not the id of a model"),
        (f"{HUB}/a/b/tree/v2", "'v2'"),
        (f"{HUB}/a/b/blob/0123456789abcdef0123456789abcdef01234567/config.json", "only main"),
        (f"{HUB}/a/b/nonsense", "not the id of a model"),
        ("https://evil.example/a/b", "not one of the model hub"),
        ("https://huggingface.co.evil.example/a/b", "not one of the model hub"),
        ("https://huggingface.co@evil.example/a/b", "not one of the model hub"),
        ("https://user:secret@huggingface.co/a/b", "not one of the model hub"),
        ("https://huggingface.co:8443/a/b", "not one of the model hub"),
        ("https://127.0.0.1/a/b", "not one of the model hub"),
        ("https://[::1/a/b", "not one of the model hub"),
        ("https://huggingface.co:x/a/b", "not one of the model hub"),
        ("http://169.254.169.254/latest/meta-data", "not one of the model hub"),
        ("//evil.example/a/b", "not the id of a model"),
        ("file:///etc/passwd", "not the address of a model"),
        ("ftp://huggingface.co/a/b", "not the address of a model"),
        ("javascript:alert(1)", "not the id of a model"),
    ],
)
def test_anything_else_is_refused_with_a_sentence_that_says_what_to_write(
    text: str, part_of_sentence: str
) -> None:
    with pytest.raises(InvalidModelId) as refused:
        normalised_id(text)
    assert part_of_sentence in str(refused.value)
    assert str(refused.value).isprintable()
    assert str(refused.value).endswith(".")


def test_a_mirror_of_the_environment_is_a_hub_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example:8080/hf/")
    assert normalised_id("http://mirror.example:8080/hf/a/b/tree/main") == "a/b"
    assert normalised_id("mirror.example:8080/hf/a/b") == "a/b"
    assert normalised_id("https://huggingface.co/a/b") == "a/b"
    for text in ("http://mirror.example/hf/a/b", "http://mirror.example:8080/other/a/b"):
        with pytest.raises(InvalidModelId):
            normalised_id(text)
    assert hub_page("a/b") == "http://mirror.example:8080/hf/a/b"


@pytest.mark.parametrize("endpoint", ["not an address", "http://", "ftp://hub"])
def test_a_wrong_endpoint_leaves_ids_and_pages_readable(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert normalised_id("https://huggingface.co/a/b") == "a/b"
    assert hub_page("a/b") == "https://huggingface.co/a/b"


def test_a_password_in_the_endpoint_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://user:secret@mirror.example")
    assert hub_page("a/b") == "https://mirror.example/a/b"


# Pieces that, put together, look like addresses more often than letters drawn at random would.
PIECES = st.sampled_from(
    [
        "https://", "http://", "//", "/", "huggingface.co", "hf.co", "127.0.0.1", "evil.example", "@", ":", "8080",
        "..", ".", "-", "--", "%2e", "%2f", "\\", "?", "#", "tree", "main", "resolve", "api", "models", "datasets",
        "owner", "name", "gpt2", " ", "\t", "\r\n", "\0", "é", "musicgen-small",
    ]
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=60))
def test_no_text_leads_to_another_host_or_path(text: str) -> None:
    try:
        model_id = normalised_id(text)
    except InvalidModelId:
        return
    assert set(model_id) <= set(string.ascii_letters + string.digits + "._-/")
    address = urlsplit(f"{HUB}/{model_id}/resolve/main/config.json")
    parts = address.path.split("/")
    assert address.hostname == "huggingface.co"
    assert address.path.endswith("/resolve/main/config.json")
    assert len(parts) in (5, 6)
    assert not {"", ".", ".."} & set(parts[1:])
    assert normalised_id(model_id) == model_id


def test_the_built_in_ones_are_known_by_name() -> None:
    for model_id in builtin_ids():
        assert normalised_id(model_id.partition("/")[2]) == model_id
