"""The pages of /memory/: one field for a model, three actions, and the panel that takes a config in."""
