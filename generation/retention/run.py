"""Runs the rules: each when it is due, by one process at a time; or all of them for who asks.

What a rule removes is not claimed: every removal looks at its row or file again, so two runs at once harm nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from django.db.models import F, Q
from django.utils import timezone

from gated_configs.wording import spoken_bytes
from generation.models import CleanUp
from generation.retention import leftovers, rules
from generation.retention.rules import BATCH, Look, Removal, Rule
from registry.media import MediaAway, NotOurs, takes_media

logger = logging.getLogger(__name__)

#: In the order in which they run: what nobody misses goes before takes.
RULES: Final = (
    Rule("half-made", "Half-made files", timedelta(minutes=30), leftovers.find_half_made, of_home=True),
    Rule(
        "conversions",
        "Copies in other formats",
        timedelta(minutes=30),
        leftovers.find_conversions,
        of_home=True,
    ),
    Rule("deleted", "Deleted takes", timedelta(minutes=1), rules.find_expired),
    Rule("old", "Takes past their days", timedelta(minutes=10), rules.find_old),
    Rule("clips", "Clips without a take", timedelta(minutes=10), rules.find_needless_clips),
    Rule("limits", "Takes over a limit", timedelta(minutes=1), rules.find_over_limits),
    Rule("orphans", "Files without a row", timedelta(hours=6), leftovers.find_orphans),
    Rule("deliveries", "Log of webhooks", timedelta(hours=6), leftovers.find_deliveries),
    Rule("lost", "Rows without a file", timedelta(hours=6), leftovers.find_lost),
)
RULES_BY_NAME: Final = {rule.name: rule for rule in RULES}


@dataclass
class Outcome:
    """What a run of one rule did, or would do."""

    rule: Rule
    removed: list[Removal] = field(default_factory=list)
    freed_bytes: int = 0
    left: int = 0
    note: str = ""
    problems: list[str] = field(default_factory=list)


def never() -> bool:
    """For a run that nobody stops."""
    return False


def run_due(should_stop: Callable[[], bool] = never) -> list[Outcome]:
    """Run each rule whose time has come and that no other process runs now."""
    known = set(CleanUp.objects.values_list("name", flat=True))
    new = [CleanUp(name=rule.name) for rule in RULES if rule.name not in known]
    if new:
        CleanUp.objects.bulk_create(new, ignore_conflicts=True)
    return [run_rule(rule, Look(), should_stop) for rule in RULES if not should_stop() and _is_ours(rule)]


#: When this process looks at its own home again, by rule: where machines share a bucket, each has a home.
_due_here: dict[str, float] = {}


def _is_ours(rule: Rule) -> bool:
    if not (rule.of_home and takes_media().is_remote):
        return _claim(rule)
    if time.monotonic() < _due_here.get(rule.name, 0.0):
        return False
    _due_here[rule.name] = time.monotonic() + rule.every.total_seconds()
    return True


def run_all(look: Look) -> Iterator[Outcome]:
    """Run every rule to its end, whenever it ran last."""
    for rule in RULES:
        outcome = run_rule(rule, look)
        yield outcome
        # With `only_tells` a second look would find the same again.
        while len(outcome.removed) >= BATCH and not look.only_tells:
            outcome = run_rule(rule, look)
            yield outcome


def run_rule(rule: Rule, look: Look, should_stop: Callable[[], bool] = never) -> Outcome:
    """Find and remove. What goes wrong with one removal is told and stops no other."""
    outcome = Outcome(rule)
    try:
        finding = rule.find(look)
    except OSError as problem:
        outcome.problems.append(f"The files cannot be looked at: {problem}")
        finding = rules.Finding()
    outcome.left, outcome.note = finding.left, finding.note
    for removal in finding.removals:
        # With the storage away each of them would wait for it, and leave a file without its row.
        if should_stop() or not _remove(removal, look, outcome):
            break
    if not look.only_tells:
        _note(outcome)
    return outcome


def _remove(removal: Removal, look: Look, outcome: Outcome) -> bool:
    """Whether the next one may be tried."""
    try:
        freed = removal.size_bytes if look.only_tells else removal.remove()
    except (OSError, NotOurs) as problem:
        outcome.problems.append(f"{removal.what} cannot be removed: {problem}")
        return not isinstance(problem, MediaAway)
    if freed is not None:
        outcome.removed.append(removal)
        outcome.freed_bytes += freed
    return True


def _claim(rule: Rule) -> bool:
    """Whether the rule is due and ours for now. A time that a clock ahead of ours wrote does not hold."""
    now = timezone.now()
    row = CleanUp.objects.filter(Q(due_at__lte=now) | Q(due_at__gt=now + rule.every), name=rule.name)
    # Asked first: an update that meets no row locks SQLite all the same.
    return row.exists() and bool(row.update(due_at=now + rule.every))


def _note(outcome: Outcome) -> None:
    now, count = timezone.now(), len(outcome.removed)
    CleanUp.objects.get_or_create(name=outcome.rule.name)
    CleanUp.objects.filter(name=outcome.rule.name).update(
        ran_at=now,
        removed=count,
        freed_bytes=outcome.freed_bytes,
        removed_total=F("removed_total") + count,
        freed_bytes_total=F("freed_bytes_total") + outcome.freed_bytes,
        found=outcome.left,
        note=(outcome.problems[0] if outcome.problems else outcome.note)[:300],
        **({"due_at": now} if count >= BATCH else {}),
    )
    for problem in outcome.problems:
        logger.warning("clean-up: %s", problem)
    if outcome.note:
        logger.warning("clean-up: %s", outcome.note)
    if count:
        logger.info(
            "clean-up: %s, %d removed, %s freed",
            outcome.rule.meaning.lower(),
            count,
            spoken_bytes(outcome.freed_bytes),
        )
