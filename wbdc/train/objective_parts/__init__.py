"""Arithmetic that several objectives share."""
