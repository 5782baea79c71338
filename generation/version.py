"""The release's version, as recipes and the API name it. pyproject.toml holds the same; a test compares them."""

VERSION = "0.1.0"
