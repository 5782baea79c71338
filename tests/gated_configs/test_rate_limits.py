"""Allowances: counted per person and per address, coming back one at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from gated_configs.services.rate_limits import Allowance, TooManyRequests, spend

pytestmark = pytest.mark.django_db

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
    assert refusal(person="alice").retry_after_seconds == 20
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


def test_it_comes_back_one_at_a_time(clock: Clock) -> None:
    for _ in range(3):
        spend(KNOCKS, person="alice")
    clock.now += 9
    refused = refusal(person="alice")
    assert refused.retry_after_seconds == 11
    assert str(refused) == "Those were too many knocks in a short time. Try again in 11\u202fs."
    clock.now += refused.retry_after_seconds
    spend(KNOCKS, person="alice")
    refusal(person="alice")
    clock.now += 60
    for _ in range(3):
        spend(KNOCKS, person="alice")


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
