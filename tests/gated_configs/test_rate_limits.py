"""Allowances: counted per person and address, over a moving window, in memory or in Redis."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from gated_configs.services import rate_limits
from gated_configs.services.rate_limits import Allowance, TooManyRequests, spend

KNOCKS = Allowance(name="knocks", what="knocks", per_person=3, per_address=5, window_seconds=60)


class Clock:
    """A time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    with monkeypatch.context() as patch:
        patch.setattr("time.time", clock)
        yield clock


def refusal(allowance: Allowance = KNOCKS, **who: str) -> TooManyRequests:
    with pytest.raises(TooManyRequests) as caught:
        spend(allowance, **who)
    return caught.value


def test_a_person_may_so_often_and_no_more(clock: Clock) -> None:
    for _ in range(3):
        spend(KNOCKS, person="alice")
    assert refusal(person="alice").retry_after_seconds == 61
    spend(KNOCKS, person="bob")


def test_an_address_may_so_often_whoever_it_is(clock: Clock) -> None:
    for number in range(5):
        spend(KNOCKS, person=f"person-{number}", address="10.0.0.1")
    refusal(person="another", address="10.0.0.1")
    spend(KNOCKS, person="another", address="10.0.0.2")


def test_what_is_refused_is_not_counted(clock: Clock) -> None:
    for _ in range(3):
        spend(KNOCKS, person="alice", address="10.0.0.1")
    for _ in range(5):
        refusal(person="alice", address="10.0.0.1")
    for _ in range(2):
        spend(KNOCKS, person="bob", address="10.0.0.1")
    for _ in range(5):
        refusal(person="bob", address="10.0.0.1")
    spend(KNOCKS, person="bob", address="10.0.0.2")
    refusal(person="bob", address="10.0.0.2")


def test_the_window_moves(clock: Clock) -> None:
    spend(KNOCKS, person="alice")
    clock.now += 40
    spend(KNOCKS, person="alice")
    spend(KNOCKS, person="alice")
    clock.now += 10
    refused = refusal(person="alice")
    # The first knock leaves the window after ten seconds, and not the whole window later.
    assert refused.retry_after_seconds == 11
    assert str(refused) == "That were too many knocks in a short time. Try again in 11\u202fs."
    clock.now += refused.retry_after_seconds
    spend(KNOCKS, person="alice")
    refusal(person="alice")


def test_allowances_do_not_share(clock: Clock) -> None:
    other = dataclasses.replace(KNOCKS, name="calls")
    for _ in range(3):
        spend(KNOCKS, person="alice")
    spend(other, person="alice")


def test_nobody_is_nobody(clock: Clock) -> None:
    for _ in range(20):
        spend(KNOCKS)


def test_any_text_is_a_name(clock: Clock) -> None:
    for name in ("a/b", "é\0\n", "x" * 10_000, "LIMITER", "%s"):
        spend(KNOCKS, person=name, address=name)


@pytest.mark.redis
def test_processes_count_together_in_redis(redis_server: str, settings: Any) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"redis_url": redis_server})
    for _ in range(3):
        spend(KNOCKS, person="carol")
    # Another process has a limiter of its own and the same Redis.
    rate_limits.forget_all()
    rate_limits._shared_limiter.cache_clear()
    assert 0 < refusal(person="carol").retry_after_seconds <= 60


@pytest.mark.redis
@pytest.mark.parametrize("url", ["redis://127.0.0.1:9/0", "unix:///nowhere/redis.sock", "strange://host"])
def test_without_redis_each_process_counts_for_itself(
    url: str, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.STUDIO = settings.STUDIO.model_copy(update={"redis_url": url})
    for _ in range(3):
        spend(KNOCKS, person="dave")
    refusal(person="dave")
    assert "Redis failed" in caplog.text
    assert ("unknown storage scheme" in caplog.text) == url.startswith("strange")
