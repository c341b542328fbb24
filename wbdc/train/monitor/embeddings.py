"""Embeddings of videos: the pooled vectors of a model, computed as in serving."""

import numpy as np
import torch

from wbdc.core.batch import Batch
from wbdc.core.device import autocast, find_precision
from wbdc.core.out_of_memory import BatchParts
from wbdc.nets.model import VideoClassifier
from wbdc.serve.predict import compute_in_parts
from wbdc.train.dataset import Dataset
from wbdc.train.distributed.gather import sum_over_ranks
from wbdc.train.hardware import Hardware
from wbdc.train.kit_schema import Serve


@torch.no_grad()
def embed_videos(
    model: VideoClassifier,
    dataset: Dataset,
    positions: np.ndarray,
    serve: Serve,
    hardware: Hardware,
) -> np.ndarray:
    """Return the pooled vectors of the videos at `positions`: (n, D) float32.

    Each rank computes some batches, and all return all of them. Sets the model to evaluation mode.
    """
    model.eval()
    ranks = hardware.ranks
    order, batches = dataset.evaluation_batches(
        positions, serve.batch, rank=ranks.rank, ranks=ranks.size, threads=hardware.threads
    )
    precision = find_precision(serve.precision, hardware.device)
    parts = BatchParts()

    def embed(batch: Batch) -> torch.Tensor:
        with autocast(hardware.device, precision):
            return model(batch.to(hardware.device)).pooled.float().cpu()

    vectors = []
    for batch in batches:
        vectors += compute_in_parts(
            lambda part, batch=batch: embed(batch.select(part)), len(batch), parts
        )
    embeddings = torch.zeros(len(positions), model.head.in_features)
    if vectors:
        embeddings[order] = torch.cat(vectors)
    # each row is zero on all ranks but one, so the sum is exact
    return sum_over_ranks(embeddings).numpy()
