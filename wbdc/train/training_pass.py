"""A pass over the training videos that trains nothing, for tricks that measure the model."""

from collections.abc import Callable

import numpy as np
import torch

from wbdc.core.batch import Batch
from wbdc.core.device import autocast
from wbdc.nets.model import VideoClassifier
from wbdc.train.dataset import Dataset
from wbdc.train.distributed.sharded_layers import whole_weights
from wbdc.train.evaluated_weights import preserving_training
from wbdc.train.hardware import Hardware


@torch.no_grad()
def run_training_videos(
    forward: Callable[[Batch], object],
    model: VideoClassifier,
    dataset: Dataset,
    positions: np.ndarray,
    batch_size: int,
    seed: int,
    precision: torch.dtype,
    hardware: Hardware,
) -> None:
    """Call `forward` on batches of the videos at `positions`, each of which occurs once.

    The model is in evaluation mode, in the precision of the training, and no trick changes the
    batches, so their videos are as in serving. Order and batches are a function of the seed. The
    ranks share the batches. Changes neither the modes of the modules nor any random number.
    """
    ranks = hardware.ranks
    batches = dataset.shuffled_batches(
        positions,
        batch_size,
        seed,
        rank=ranks.rank,
        ranks=ranks.size,
        threads=hardware.threads,
    )
    with preserving_training(model, hardware.device), whole_weights(model):
        model.eval()
        for batch in batches:
            with autocast(hardware.device, precision):
                forward(batch.to(hardware.device))
