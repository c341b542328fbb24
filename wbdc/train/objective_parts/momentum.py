"""A copy of the model that follows it slowly (MoCo; He et al., 2020)."""

import copy

import torch
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier
from wbdc.train.distributed.shards import local_shard
from wbdc.train.objective_parts.modalities import encode_apart


class MomentumModel(nn.Module):
    """A copy of a model, and of parts of an objective, that follows them slowly, without gradients.

    It copies what reads tokens: trunk, fusion and frame projection. It has no vision tower and no
    classification head: it reads the features of the trained tower, which are computed anyway. It
    is always in evaluation mode, so that its outputs have no dropout.

    parts: modules of the objective; the copy of each is an attribute of this name.
    """

    def __init__(self, model: VideoClassifier, **parts: nn.Module):
        super().__init__()
        replaced = {id(model.vision): _Tower(model.vision.tokens_per_frame)}
        replaced[id(model.head)] = nn.Identity()
        self.model = copy.deepcopy(model, replaced)
        for name, part in parts.items():
            self.add_module(name, copy.deepcopy(part))
        # a tuple, which hides the modules: their weights belong to the model and the objective
        self._followed = (("model.", model), *((f"{name}.", part) for name, part in parts.items()))
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "MomentumModel":
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def move(self, momentum: float) -> None:
        """Set every weight w to momentum * w + (1 - momentum) * that of the trained model."""
        trained = {
            prefix + name: weight
            for prefix, module in self._followed
            for name, weight in module.named_parameters()
        }
        weights = dict(self.named_parameters())
        copies = [local_shard(weight) for weight in weights.values()]
        followed = [local_shard(trained[name]) for name in weights]
        torch._foreach_lerp_(copies, followed, 1 - momentum)


class MomentumEncoder(MomentumModel):
    """A momentum model that returns keys.

    text, frames: projections of the mean text token and the mean frame token.
    """

    def __init__(self, model: VideoClassifier, text: nn.Module, frames: nn.Module):
        super().__init__(model, text=text, frames=frames)

    @torch.no_grad()
    def forward(self, batch: Batch, fused: Fused) -> tuple[Tensor, Tensor]:
        """Return the keys of text and frames, each (B, dim), of an encoded batch.

        fused: an output of the trained model for any batch; see `encode_apart`.
        """
        text, frames = encode_apart(self.model, batch, fused)
        return self.text(text.mean()).float(), self.frames(frames.mean()).float()


def ramped_share(share: float, step: int, ramp_steps: float) -> float:
    """Return the share of a teacher at a step: it rises from 0 over the first `ramp_steps`."""
    return share * min(1.0, step / max(1.0, ramp_steps))


class _Tower(nn.Module):
    """Stands for the vision tower, of which a copy that reads features needs one number."""

    def __init__(self, tokens_per_frame: int):
        super().__init__()
        self.tokens_per_frame = tokens_per_frame
