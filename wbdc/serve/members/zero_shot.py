"""Zero-shot classification: the vision tower of a CLIP and one vector of each class."""

from collections.abc import Hashable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wbdc.core.batch import Batch
from wbdc.core.errors import IntegrityFault
from wbdc.core.plug import build_plug
from wbdc.data.loader import collate
from wbdc.nets import vision as visions
from wbdc.nets.vision import Vision
from wbdc.serve.member_files import WEIGHTS_FILE
from wbdc.serve.member_parts.class_vectors import CLASS_VECTORS, class_cosines
from wbdc.serve.member_parts.tower_weights import (
    TOWER_PREFIX,
    explain_damage,
    read_weights,
    tower_key,
)
from wbdc.serve.member_parts.views import Views
from wbdc.serve.members import FrameKey, Member
from wbdc.serve.openvino_function import OpenVinoFunction
from wbdc.serve.openvino_network import use_openvino_tower

NO_WORDS = [0]  # a batch has at least one token


class ZeroShot(Member):
    """frames: serve fewer frames than at the fit; half: round the weights to float16, as they may
    be stored. Members with the same tower share its features.
    """

    shape = {"vision": dict, "scale": float, "tower?": str}
    is_network = True
    computes_on_cpu = False
    stage = "fuse"

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        *,
        frames: int | None = None,
        half: bool = False,
    ):
        super().__init__(folder, device)
        self.folder, self.device = folder, device
        self.scale: float = self.facts["scale"]
        vision: Vision = build_plug(visions, self.facts["vision"])
        with explain_damage(folder):
            weights = read_weights(folder, self.facts, half)
            classes = weights.pop(CLASS_VECTORS)
            tower = {name.removeprefix(TOWER_PREFIX): t for name, t in weights.items()}
            vision.load_state_dict(tower, strict=True)
        if classes.shape != (len(self.classes), vision.dim) or not classes.isfinite().all():
            raise IntegrityFault(f"{folder / WEIGHTS_FILE} holds other classes than model.json")
        if frames is not None:
            vision.serve_frames(frames)
        self.vision = vision.eval().to(device)
        self._openvino_functions: list[OpenVinoFunction] = []
        self.class_vectors = classes.to(device)
        self.frame_key = FrameKey(vision.image_settings, vision.frames)

    @cached_property
    def tower_key(self) -> tuple:
        """A hash of the tower, its weights and its inputs, as that of a network."""
        return tower_key(self.vision, self.frame_key, Views()), None

    @classmethod
    def trained_sizes(cls, facts: dict) -> dict[str, int]:
        return {"frames": facts["vision"]["frames"]}

    def collate(self, ids: Sequence[str], texts: list, frames: Sequence[np.ndarray]) -> Batch:
        return collate(ids, [NO_WORDS] * len(ids), frames, pinned=self.device.type == "cuda")

    def encode(self, batch: Batch) -> Tensor:
        return self.vision(batch.frames, batch.frame_mask, batch.frame_counts).x

    def with_features(self, batch: Batch, features: Tensor) -> Batch:
        # one vector of each frame: mask and counts stay
        return Batch(batch.ids, batch.text, batch.text_mask, features, batch.frame_mask)

    def logits(self, batch: Batch, features: Tensor | None) -> Tensor:
        if features is None:
            features = self.encode(batch)
        features = features.to(self.class_vectors.device)
        return class_cosines(features, batch.frame_mask, self.class_vectors, self.scale)

    def use_precision(self, precision: torch.dtype) -> None:
        for function in self._openvino_functions:
            function.use_precision(precision)

    def use_openvino(self, threads: int, towers: dict[Hashable, OpenVinoFunction]) -> None:
        name = f"the vision tower of {self.folder}"
        self._openvino_functions = use_openvino_tower(
            self.vision, self.tower_key, threads, towers, name
        )
