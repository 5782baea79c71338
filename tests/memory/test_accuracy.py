"""docs/accuracy.md is what the samples give now."""

from __future__ import annotations

from tests.memory.accuracy import PAGE, page


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.memory.accuracy"


def test_the_page_admits_no_difference_silently() -> None:
    assert "**differs**" not in page()
