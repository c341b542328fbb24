"""What tests of objectives share: build one, and compute its loss as the training loop does."""

import torch
import toys
from torch import Tensor

from wbdc.core import plug
from wbdc.core.batch import Batch
from wbdc.nets.model import VideoClassifier
from wbdc.train import objectives
from wbdc.train.objectives import Objective
from wbdc.train.task import Task


def build_objective(
    use: str, model: VideoClassifier, task: Task = toys.TASK, **settings: object
) -> Objective:
    """Build an objective with heads from a fixed seed."""
    torch.manual_seed(1)
    return plug.build_plug(objectives, {"use": use, **settings}, model, task)


def loss_of(objective: Objective, model: VideoClassifier, batch: Batch) -> Tensor:
    """Return the loss of a batch in which the objective hides its part."""
    original = model.encode(batch)
    hidden = objective.hide(original)
    return objective.loss(model, model.fuse(hidden), hidden, original)


def own_weights(objective: Objective) -> list[Tensor]:
    """Return the weights that an optimizer trains."""
    return [p for p in objective.parameters() if p.requires_grad]
