"""Preparation: raw data are checked, described and stored for training."""
