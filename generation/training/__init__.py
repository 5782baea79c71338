"""Training of the demo model: composed music in, a MusicGen checkpoint out.

Torch, transformers and numpy; nothing of Django, and of the engine only its delay pattern."""
