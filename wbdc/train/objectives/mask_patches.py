"""Predict the pixels of masked patches from the other patches of a frame (MAE; He et al., 2022; of
videos, with the same patches in every frame: VideoMAE, Tong et al., 2022).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier
from wbdc.nets.vision import Vision, real_frames
from wbdc.train.objective_parts.frame_rows import which_frames
from wbdc.train.objectives import Objective
from wbdc.train.task import Task

PATCH_DEVIATION = 0.02  # of weights, as in MAE


class MaskPatches(Objective):
    """Encodes the visible patches of each frame by the tower, a vision transformer of `clip`, and
    predicts the pixels of the others by a small transformer that is thrown away: (M, P, W) to
    (M, P, 3 * S * S) for M frames of P patches of side S.

    The target of a patch is its pixels, normalized to mean 0 and variance 1; the loss is the mean
    squared error of the masked ones, and its chance level, of a prediction of zeros, is 1. The
    tower sees the visible patches only, so this pass takes about 1 - share of the time of a frame.

    share: of the patches of a frame that are masked. tubes: mask the same patches in all frames of
    a video, so that they cannot be copied from another frame. width, layers, heads: of the
    transformer that predicts.

    Raises UsageFault for a tower that is frozen or no vision transformer of `clip`, and for
    settings out of bounds.
    """

    chance = 1.0
    needs_pixels = True

    def __init__(
        self,
        model: VideoClassifier,
        task: Task,
        *,
        weight: float = 1.0,
        share: float = 0.75,
        tubes: bool = False,
        width: int = 256,
        layers: int = 2,
        heads: int = 4,
    ):
        super().__init__(model, task, weight=weight)
        self.check_between(0.01, 0.99, share=share)
        self.check_between(1, 64, layers=layers, heads=heads)
        self.check_between(heads, 65536, width=width)
        if width % heads:
            raise UsageFault(
                f"objective 'mask_patches': width = {width} is no multiple of heads = {heads}"
            )
        _check_tower(model.vision)
        tower = model.vision.tower
        self.side = tower.conv1.kernel_size[0]
        self.patches = tower.grid_size[0] * tower.grid_size[1]
        self.visible = min(self.patches - 1, max(1, round(self.patches * (1 - share))))
        self.tubes = tubes
        self.per_frame = model.vision.tokens_per_frame
        self.enter = nn.Linear(tower.conv1.out_channels, width)
        self.fill = nn.Parameter(torch.randn(width) * PATCH_DEVIATION)
        self.patch_position = nn.Parameter(torch.randn(self.patches, width) * PATCH_DEVIATION)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.predict = nn.Linear(width, 3 * self.side**2)
        nn.init.normal_(self.predict.weight, std=PATCH_DEVIATION)  # near the chance level
        nn.init.zeros_(self.predict.bias)

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the average over the masked patches of all frames, or 0 without frames."""
        vision = model.vision
        mask = which_frames(original, self.per_frame)
        counts = tuple(count // self.per_frame for count in original.frame_counts)
        rows = real_frames(mask, counts)
        if not len(rows):
            return 0 * sum(weight.sum() for weight in self.parameters())
        rows = rows.to(mask.device, non_blocking=True)
        pixels = vision.normalize(original.pixels.flatten(0, 1).index_select(0, rows))
        order = self._draw_order(original, mask.shape[1]).index_select(0, rows)
        visible, masked = order[:, : self.visible], order[:, self.visible :]

        encoded = encode_visible(vision.tower, pixels, visible)
        predicted = select_rows(self._decode(encoded, visible), masked).float()
        target = select_rows(pixel_patches(pixels, self.side), masked)
        return F.mse_loss(predicted, F.layer_norm(target, target.shape[-1:]))

    def count(self, batch: Batch) -> Tensor:
        """Return the number of frames, each of which has as many masked patches."""
        return which_frames(batch, self.per_frame).sum()

    def _draw_order(self, batch: Batch, frames: int) -> Tensor:
        """Draw an order of the patches of each frame, the visible ones first: (B * F, P) int64."""
        drawn_frames = 1 if self.tubes else frames
        numbers = self.draw(batch, "patches", drawn_frames, self.patches)
        return numbers.expand(-1, frames, -1).argsort(-1).flatten(0, 1)

    def _decode(self, encoded: Tensor, visible: Tensor) -> Tensor:
        """Predict all patches from the visible ones: (M, 1 + K, W), (M, K) -> (M, P, 3 * S * S)."""
        tokens = self.enter(encoded)
        fill = self.fill.to(tokens.dtype).expand(len(tokens), self.patches, -1)
        places = visible.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
        patches = fill.scatter(1, places, tokens[:, 1:]) + self.patch_position
        decoded = self.decoder(torch.cat([tokens[:, :1], patches.to(tokens.dtype)], 1))
        return self.predict(decoded[:, 1:])


def encode_visible(tower: nn.Module, pixels: Tensor, visible: Tensor) -> Tensor:
    """Encode some patches of each frame by a vision transformer of open_clip: (M, 3, H, W), (M, K)
    int64 -> (M, 1 + K, width), the class token first.
    """
    patches = tower.conv1(pixels).flatten(2).transpose(1, 2)
    positions = tower.positional_embedding.to(patches.dtype)
    patches = select_rows(patches + positions[1:], visible)
    start = (tower.class_embedding.to(patches.dtype) + positions[0]).expand(len(patches), 1, -1)
    return tower.transformer(tower.ln_pre(torch.cat([start, patches], 1)))


def select_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Select some rows of each item: (M, P, D), (M, K) int64 -> (M, K, D)."""
    return x.gather(1, rows.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def pixel_patches(pixels: Tensor, side: int) -> Tensor:
    """Cut frames into patches, row by row: (M, 3, H, W) -> (M, P, 3 * side * side)."""
    return F.unfold(pixels, side, stride=side).transpose(1, 2)


def _check_tower(vision: Vision) -> None:
    """Refuse a tower that cannot encode some patches only. Raises UsageFault."""
    from open_clip.transformer import VisionTransformer

    tower = getattr(vision, "tower", None)
    if not isinstance(tower, VisionTransformer) or tower.attn_pool is not None:
        raise UsageFault(
            "objective 'mask_patches' takes vision 'clip' with a vision transformer, for example "
            "ViT-B-32; choose that tower, or the objective 'mask_frames'"
        )
    if vision.frozen:
        raise UsageFault(
            "objective 'mask_patches' trains the vision tower, which is frozen; set "
            "vision.frozen = false"
        )
