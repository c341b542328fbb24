"""Training on several ranks: replicas, rows of all ranks, batch norm over all of them."""
