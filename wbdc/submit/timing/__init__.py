"""The time check: run the packed folder as the judge does, and project the full run."""
