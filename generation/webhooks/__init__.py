"""Webhooks' own matters, without rows: what an address may be, how a message is signed, how it is sent."""
