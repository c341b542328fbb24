"""The best ensemble within the judge's time limit: member costs, candidates, search."""
