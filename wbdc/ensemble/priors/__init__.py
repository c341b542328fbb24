"""Class multipliers, which predict rare classes more often when the score averages over classes."""
