"""Brings an adapter in from a folder, a zip or the hub: reads it without trusting it, and stores its weights.

Knows nothing of rows; `adapters.services.importing` does.
"""
