"""The model: a trunk, a tower, a fusion and a head, rebuilt from the blueprint that lies beside its
weights.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from wbdc.core import plug
from wbdc.core.batch import Batch
from wbdc.core.limits import MAX_FRAMES
from wbdc.core.tokens import Fused, Tokens
from wbdc.nets import fusion as fusions
from wbdc.nets import vision as visions
from wbdc.nets.fusion import Fusion
from wbdc.nets.trunk import Trunk
from wbdc.nets.vision import Vision


class VideoClassifier(nn.Module):
    """Scores the classes of a video from its words and frames. special: id of each special word of
    the tokenizer, such as "[MASK]".
    """

    def __init__(self, fusion: Fusion, vision: Vision, classes: int, special: dict[str, int]):
        super().__init__()
        dim = fusion.trunk.dim
        self.fusion, self.vision, self.special = fusion, vision, special
        self.project = nn.Sequential(nn.Linear(vision.dim, dim), nn.LayerNorm(dim))
        self.time_embedding = nn.Embedding(MAX_FRAMES, dim)  # a frame's place in time
        self.frame_start = nn.Parameter(
            torch.randn(1, 1, dim) * 0.02
        )  # opens each row, so that none is ever empty
        self.head = nn.Linear(dim, classes)
        nn.init.normal_(self.time_embedding.weight, std=0.02)

    @property
    def trunk(self) -> Trunk:
        """The language trunk, which the fusion owns."""
        return self.fusion.trunk

    def forward(self, batch: Batch) -> Fused:
        """Look and read, then let both meet."""
        return self.fuse(batch, self.vision(batch.frames, batch.frame_mask))

    def fuse(self, batch: Batch, seen: Tensor) -> Fused:
        """Let the words meet what the tower saw. seen: (B, F, vision.dim)."""
        text = Tokens(self.trunk.embed(batch.text), batch.text_mask)
        return self.fusion(text, self.frame_tokens(seen, batch.frame_mask))._replace(
            vision_features=seen
        )

    def frame_tokens(self, seen: Tensor, mask: Tensor) -> Tokens:
        """Project a tower's vectors into a row of tokens that opens with "no frame": (B, 1 + F, D)."""
        frames = self.project(seen) + self.time_embedding.weight[: seen.shape[1]]
        start = self.frame_start.expand(len(seen), 1, -1).to(frames.dtype)
        return Tokens(
            torch.cat([start, frames], 1), torch.cat([mask.new_ones(len(mask), 1), mask], 1)
        )

    def logits(self, batch: Batch) -> Tensor:
        """Score every class: (B, C)."""
        return self.head(self(batch).pooled)

    def blueprint(self, fusion: dict) -> dict:
        """Return what rebuilds this model without its weights. fusion: the kit's table."""
        return {
            "trunk": self.trunk.architecture,
            "vision": self.vision.blueprint(),
            "fusion": fusion,
            "classes": self.head.out_features,
            "special": self.special,
        }


def build_model(blueprint: dict, kit_folder: Path | None = None) -> VideoClassifier:
    """Build the model of a blueprint, with random weights. kit_folder: where "./plug.py" files lie.
    Raises UsageFault.
    """
    vision = plug.build_plug(visions, blueprint["vision"], kit_folder=kit_folder)
    fusion = plug.build_plug(
        fusions, blueprint["fusion"], Trunk(blueprint["trunk"]), kit_folder=kit_folder
    )
    return VideoClassifier(fusion, vision, blueprint["classes"], blueprint["special"])
