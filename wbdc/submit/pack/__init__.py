"""The contents of a packed folder: code, models, scripts, lock file, provenance."""
