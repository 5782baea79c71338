"""Rows of shared mode: API tokens, links for the first administrator, limits, and what people did."""

from musicgen_site.models.api_token import ApiToken, ApiTokenQuerySet, TokenScope
from musicgen_site.models.audit_entry import AuditEntry
from musicgen_site.models.setup_link import SetupLink

__all__ = ["ApiToken", "ApiTokenQuerySet", "AuditEntry", "SetupLink", "TokenScope"]
