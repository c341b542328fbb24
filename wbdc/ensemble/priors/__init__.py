"""Class multipliers that raise a score which averages over classes."""
