"""Rows of the adapters: each adapter with what its file tells, and each proof that one works with a model."""

from adapters.models.adapter import MAX_STRENGTH, Adapter, AdapterQuerySet, AdapterSource
from adapters.models.proof import AdapterProof, ProofStatus
from adapters.models.shipped import ShippedImport

__all__ = [
    "MAX_STRENGTH",
    "Adapter",
    "AdapterProof",
    "AdapterQuerySet",
    "AdapterSource",
    "ProofStatus",
    "ShippedImport",
]
