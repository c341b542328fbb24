"""Checks of a packed folder: integrity, differences, reproduction."""

MAX_SAMPLE_VIDEOS = 256  # test videos that are predicted for a comparison
