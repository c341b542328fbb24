"""Pack a folder that runs alone, rehearse it, verify it."""
