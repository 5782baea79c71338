"""Turns a MusicGen checkpoint, a prompt and a seed into audio; runs as `python -m generation.engine`.

Knows torch and transformers, never Django. Importing this package or `generation.engine.protocol` imports
neither.
"""
