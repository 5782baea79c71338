"""A hub of our own on loopback, for tests of whatever fetches models."""

from tests.hub.fake_hub import FakeHub, Request, blob_hashes

__all__ = ["FakeHub", "Request", "blob_hashes"]
