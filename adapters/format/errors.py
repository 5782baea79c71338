"""Why a file cannot be used as an adapter: a code for programs, a sentence for people, facts for both.

The one family of errors that every reader of adapters raises.
"""

from __future__ import annotations


class AdapterRefused(ValueError):
    """The files cannot be used as an adapter. `message` says why and what to do; `detail` is for a log or a bug report.

    `facts` are further named values that an API answers beside the sentence.
    """

    def __init__(self, code: str, message: str, detail: str = "", **facts: object) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail
        self.facts = facts


class NotAnAdapter(AdapterRefused):
    """The files are something else, and the sentence says what."""


class BrokenAdapter(AdapterRefused):
    """It is an adapter, but a part is missing, cut off or of no effect."""


class UnsupportedAdapter(AdapterRefused):
    """It is an adapter of a kind that the engine cannot do, and the sentence names the kind."""
