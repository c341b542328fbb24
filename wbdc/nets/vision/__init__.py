"""Vision towers: one vector, or several, for each frame, or for each time step of a video."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from wbdc.core.image_settings import ImageSettings
from wbdc.core.tokens import Tokens
from wbdc.nets.clip_sampling import sample_clips

FRAMES_IN_CACHE = 32  # the most that are encoded together on a CPU


class Vision(nn.Module):
    """The contract of a vision tower. Subclass it in a file of its own.

    dim: width of the vectors of a frame. tokens_per_frame: P, their number. image_settings: how
    frames are prepared; None when the data hold features and no images. frames: number of frames of
    each video. frozen: whether the weights are not trained.

    A video tower encodes the frames of a video together. clip_frames: L, the length of the clip
    that it takes, to which the real frames of a video are sampled (see `clip_positions`); None:
    each frame is encoded on its own. clip_steps: the times of a clip at which it returns P vectors;
    every video with a frame gets all of them. Read P as vectors of a step there, and F, the number
    of frames that a batch of features holds, as clip_steps.
    """

    dim: int
    tokens_per_frame: int = 1
    clip_frames: int | None = None
    clip_steps: int | None = None
    image_settings: ImageSettings | None
    # Whether a batch without frames goes through the tower, too: when batch norms share their
    # statistics between the ranks of a training, the tower of every rank must take part.
    always_encode: bool = False
    # Whether a blank frame takes the place of no frames: in a training on several ranks, the layers
    # of the tower and the gradients of gathered features are computed by all of them, or by none.
    encodes_blank: bool = False
    # Whether layers with random weights are added to a pretrained tower. They must be trained, so a
    # kit may freeze its nested tower, and not all of it.
    adds_random_layers: bool = False
    # Whether OpenVINO computes the tower as torch does.
    converts_to_openvino: bool = True
    # Whether a CUDA graph can record the tower: no shape inside depends on the pixels.
    has_fixed_shapes: bool = True

    def __init__(self, *, frames: int, frozen: bool):
        super().__init__()
        self.frames = frames
        self.frozen = frozen
        self.loaded = "random weights"
        self.pretrained: dict | None = None  # name and hashes of the loaded file
        self._normalization: dict[tuple, tuple[Tensor, ...]] = {}  # mean and std on each device

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode M normalized frames: (M, 3, S, S) float -> (M, dim), or (M, P, dim).

        Of a video tower, M clips: (M, L, 3, S, S) float -> (M, clip_steps, P, dim).
        """
        raise NotImplementedError

    def parts(self) -> dict[str, "Vision"]:
        """Return the towers that have weights of their own, by name: this one."""
        return {"vision": self}

    def blueprint(self) -> dict:
        """Return the kit table that rebuilds this tower without loading pretrained weights."""
        raise NotImplementedError

    @property
    def steps(self) -> int:
        """The most times of a video at which there are vectors: frames, or those of a clip."""
        return self.clip_steps or self.frames

    def serve_frames(self, frames: int) -> None:
        """Read another number of frames of each video than in training."""
        self.frames = frames

    def token_mask(self, mask: Tensor) -> Tensor:
        """Return which vectors are real: (B, F) bool, of frames, -> (B, N) bool."""
        if self.clip_frames is not None:
            mask = mask.any(1, keepdim=True).expand(-1, self.clip_steps)
        return mask.repeat_interleave(self.tokens_per_frame, 1)

    def token_counts(self, frame_counts: tuple[int, ...]) -> tuple[int, ...]:
        """Return the number of vectors of videos with so many frames."""
        if self.clip_frames is not None:
            frame_counts = tuple(self.clip_steps * min(1, count) for count in frame_counts)
        return tuple(self.tokens_per_frame * count for count in frame_counts)

    def forward(
        self,
        frames: Tensor,
        mask: Tensor,
        frame_counts: tuple[int, ...] = (),
        draws: Tensor | None = None,
    ) -> Tokens:
        """Encode the real frames: (B, F, 3, S, S) uint8, (B, F) bool -> (B, N, dim), zeros for
        padding. N is F * P, or clip_steps * P of a video tower. A video's vectors must not depend
        on other videos.

        Features (B, N, dim) float with their mask (B, N) are returned as they are. frame_counts:
        see `real_frames`. draws: (B, clip_frames) uniform numbers for a video tower that samples
        clips at random; None: the middle of each segment.
        """
        if frames.is_floating_point():
            return Tokens(_full_precision(frames).masked_fill(~mask[..., None], 0), mask)

        token_mask = self.token_mask(mask)
        positions = self._encoded_positions(mask, frame_counts)
        if len(positions) == 0 and not self.always_encode:
            features = torch.zeros(*token_mask.shape, self.dim, device=frames.device)
            if self.encodes_blank:
                features = features + 0 * self.encode_pixels(self._blank(frames)).sum()
            return Tokens(features, token_mask)

        # padding never goes through the tower
        positions = positions.to(frames.device, non_blocking=True)
        if self.clip_frames is None:
            real = frames.flatten(0, 1).index_select(0, positions)
        else:
            real = sample_clips(frames, mask, positions, self.clip_frames, draws)
        vectors = self.encode_pixels(real)
        count = mask.numel() if self.clip_frames is None else len(mask)
        packed = vectors.new_zeros(count, vectors.shape[1]).index_copy(0, positions, vectors)
        features = packed.view(*token_mask.shape, self.dim)
        return Tokens(features.masked_fill(~token_mask[..., None], 0), token_mask)

    def _encoded_positions(self, mask: Tensor, frame_counts: tuple[int, ...]) -> Tensor:
        """Return which of the B * F frames, or of the B videos, are encoded: (M,) int64, on the
        CPU.
        """
        if self.clip_frames is None:
            return real_frames(mask, frame_counts)
        has_frames = tuple(min(1, count) for count in frame_counts)
        return real_frames(mask.any(1, keepdim=True), has_frames)

    def _blank(self, frames: Tensor) -> Tensor:
        """Return what is encoded in the place of no frames: a blank frame, or a clip of some."""
        length = () if self.clip_frames is None else (self.clip_frames,)
        return frames.new_zeros(1, *length, *frames.shape[2:])

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Normalize and encode M frames: (M, 3, S, S) uint8 -> (M, P * dim); or M clips: (M, L, 3,
        S, S) uint8 -> (M, clip_steps * P * dim).
        """
        if self.frozen:
            with as_if_trained(self):
                return self._encode_parts(pixels)
        return self._encode_parts(pixels)

    def _encode_parts(self, pixels: Tensor) -> Tensor:
        """Normalize and encode M frames or clips, on a CPU without gradients some at a time: what a
        layer computes of them is then still in the cache when the next one reads it, which saves a
        tenth of the time, see benchmarks/test_tower_parts.py.
        """
        is_whole = pixels.device.type != "cpu" or self.training or torch.is_grad_enabled()
        frames = len(pixels) * (self.clip_frames or 1)
        count = 1 if is_whole else max(1, min(len(pixels), math.ceil(frames / FRAMES_IN_CACHE)))
        # of nearly equal sizes: matrix products of a few frames alone may round differently
        parts = pixels.tensor_split(count)
        vectors = [self.encode_part(part) for part in parts]
        return vectors[0] if len(vectors) == 1 else torch.cat(vectors)

    def encode_part(self, pixels: Tensor) -> Tensor:
        """Normalize and encode M frames at once: (M, 3, S, S) uint8 -> (M, P * dim)."""
        return self.encode(self.normalize(pixels)).flatten(1)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Normalize uint8 pixels on their device: (x / 255 - mean) / std."""
        key = self.image_settings, pixels.device
        if key not in self._normalization:  # so that each device gets one copy, and not one a batch
            self._normalization[key] = tuple(
                torch.tensor(values, device=pixels.device).view(1, 3, 1, 1)
                for values in (self.image_settings.mean, self.image_settings.std)
            )
        mean, std = self._normalization[key]
        # in place, since each further copy costs as much as the arithmetic
        return pixels.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)

    def train(self, mode: bool = True) -> "Vision":
        """Keep a frozen tower in evaluation mode, so that its running statistics do not change."""
        return super().train(mode and not self.frozen)

    def freeze(self) -> None:
        """Disable the gradients of all weights if the tower is frozen."""
        self.requires_grad_(not self.frozen)


@contextmanager
def as_if_trained(module: nn.Module) -> Iterator[None]:
    """Compute no gradients in a block, and mark frozen weights as if they required them.

    Of such weights, autocast keeps what it converted until its context ends, and matmul multiplies
    the tokens of all frames by a matrix at once. Others are converted at each call, and the packed
    projection of open_clip's attention is copied for every token: with 8 frames and BF16 on a CPU
    that takes 5 times as long, see benchmarks/test_autocast.py. The bits are equal.
    """
    # not those that `fully_shard` divided: it would remember that they require gradients
    whole = [weight for weight in module.parameters() if type(weight) is nn.Parameter]
    frozen = [weight for weight in whole if not weight.requires_grad]
    with torch.no_grad():
        for weight in frozen:
            weight.requires_grad_(True)
        try:
            yield
        finally:
            for weight in frozen:
                weight.requires_grad_(False)


def real_frames(mask: Tensor, frame_counts: tuple[int, ...] = ()) -> Tensor:
    """Return the positions of real frames among the B * F frames of a batch: (M,) int64, on the
    CPU.

    frame_counts: B numbers of frames, so that the mask of another device, for which the CPU would
    wait, need not be read. Frames that only the mask hides are then among the positions. Raises
    ValueError when a mask on the CPU marks frames beyond them.
    """
    if mask.device.type == "cpu":
        positions = mask.flatten().nonzero().flatten()
        if frame_counts:
            _check_counts(mask, frame_counts)
        return positions
    if not frame_counts:
        return mask.flatten().nonzero().flatten().cpu()

    is_real = np.arange(mask.shape[1]) < np.array(frame_counts)[:, None]
    return torch.from_numpy(np.flatnonzero(is_real))


def _check_counts(mask: Tensor, frame_counts: tuple[int, ...]) -> None:
    """Refuse a mask that marks frames beyond the counts, which another device would not encode."""
    beyond = torch.arange(mask.shape[1]) >= torch.tensor(frame_counts)[:, None]
    if (mask & beyond).any():
        raise ValueError(
            "frame_mask marks frames beyond frame_counts; code that moves frames must also replace "
            "frame_counts, or set it to ()"
        )


def _full_precision(features: Tensor) -> Tensor:
    """Convert features that were stored in half precision."""
    return features.float() if features.dtype == torch.float16 else features


Plug = Vision
