"""From raw archives to a Batch: training, validation and inference run the same code."""
