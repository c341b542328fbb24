"""From a raw archive to a Batch: the same lines in training, validation and at the judge."""
