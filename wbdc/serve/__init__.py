"""Serving, which is all that a submission runs: load models, read videos, predict, write results."""
