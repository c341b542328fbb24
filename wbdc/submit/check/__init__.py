"""Checks of a packed folder: integrity, differences, reproduction."""
