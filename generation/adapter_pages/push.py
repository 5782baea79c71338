"""What is pushed to open pages of adapters: verdicts when the active model or a proof changes, and comparisons under way.

The page says in its `view` which adapter it shows, and which comparison: "adapter-3", "adapter-3-17".
"""

from __future__ import annotations

import re
from typing import Any

from adapters.models import Adapter
from generation.adapter_pages.content import page_context, stamp, trial_context
from generation.models import AdapterTrial
from generation.partials import out_of_band

_VIEW = re.compile(r"adapter-(\d{1,18})(?:-(\d{1,18}))?", re.ASCII)


def verdicts(view: str, user: Any) -> str:
    """Head, proofs and verdicts of the adapter on the page; a nudge for the list, which knows its own filters."""
    if view == "adapters":
        return out_of_band("adapters/_stamp.html", {"stamp": stamp()})
    adapter, trial = _shown(view, user)
    if adapter is None:
        return ""
    context = page_context(user, adapter, trial)
    parts = ("_head", "_try_form", "_about")
    return "".join(out_of_band(f"adapters/{part}.html", context) for part in parts)


def comparison(view: str, user: Any) -> str:
    """The comparison on the page, as far as it is."""
    adapter, trial = _shown(view, user)
    if adapter is None or trial is None:
        return ""
    return out_of_band("adapters/_trial.html", trial_context(user, adapter, trial))


def _shown(view: str, user: Any) -> tuple[Adapter | None, AdapterTrial | None]:
    found = _VIEW.fullmatch(view)
    if found is None:
        return None, None
    adapter = Adapter.objects.select_related("base_model", "imported_by").filter(pk=int(found[1])).first()
    trials = AdapterTrial.objects.for_user(user).filter(adapter=adapter)
    trial = trials.filter(pk=int(found[2])).first() if found[2] else trials.first()
    return adapter, trial
