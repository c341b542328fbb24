"""Limits that the reader of frames and the networks must agree on."""

MAX_FRAMES = 32  # frames of one video: at one frame per second, the contest gives no more
