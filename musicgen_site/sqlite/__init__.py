"""Django's SQLite backend for a database whose folder may not exist yet. Knows no models."""
