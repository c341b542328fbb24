"""Pseudo-labels in training: read from disk by fold, and joined to the labeled videos."""
