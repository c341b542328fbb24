"""Pseudo-labels: the soft labels of videos by trained models, made for each fold."""
