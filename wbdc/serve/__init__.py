"""All that a submission runs: rebuild, read, predict, write."""
