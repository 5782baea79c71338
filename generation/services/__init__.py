"""Verbs of generation. Page, API, socket, command and engine all go through these, and only these write rows."""
