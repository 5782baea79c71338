"""Verbs of the adapters, by noun: base models (which one is named), proofs (record, ask) and choices (what fits)."""

from adapters.services.bases import believed_base, find_base, link_bases
from adapters.services.choices import AdapterChoice, choice_for, usable_for
from adapters.services.proofs import (
    Measurement,
    mark_broken,
    mark_sound,
    proof_for,
    proofs_on,
    record_failure,
    record_proof,
    unproven_on,
)

__all__ = [
    "AdapterChoice",
    "Measurement",
    "believed_base",
    "choice_for",
    "find_base",
    "link_bases",
    "mark_broken",
    "mark_sound",
    "proof_for",
    "proofs_on",
    "record_failure",
    "record_proof",
    "unproven_on",
    "usable_for",
]
