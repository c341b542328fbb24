"""Descriptions of a dataset: statistics, near-duplicates, distribution shift, finding codes."""
