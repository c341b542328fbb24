"""Serving, all that a submission runs: load models, read videos, predict, write the result."""
