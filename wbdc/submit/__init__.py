"""Packs a submission folder that runs on its own, times it and verifies it."""
