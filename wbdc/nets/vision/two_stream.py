"""Two streams: one tower encodes the frames, and another one their motion, differences or optical
flow (Simonyan and Zisserman, 2014; differences of RGB frames: Wang et al., 2016, "Temporal Segment
Networks").
"""

import torch
from torch import Tensor

from wbdc.core.errors import UsageFault
from wbdc.core.plug import build_plug, check_choice
from wbdc.core.tokens import Tokens
from wbdc.nets import vision as visions
from wbdc.nets.image_clips import TowerTable
from wbdc.nets.optical_flow import FLOW_INPUT, MIN_FLOW_SIDE, flow_pictures, import_opencv
from wbdc.nets.vision import Vision

STILL = 128  # the pixel of a difference where nothing moves
MOTION_INPUTS = ("differences", FLOW_INPUT)


class TwoStream(Vision):
    """rgb: table of the tower of the frames. motion: table of the tower of their motion. The
    vectors of a frame and of its motion to the next one are joined, so their width is the sum of
    both. The last frame has the motion before it; a single frame has none, a gray picture.

    motion_input: what the motion tower encodes, "differences" of frames, or their optical "flow",
    which OpenCV computes on the CPU.

    frames, frozen: of both towers. Frames are resized as the tower of the frames needs; motion is
    normalized as the other one does. Raises UsageFault for towers with other sizes of frames, for
    other numbers of vectors of a frame, and for those that encode no single frames,
    EnvironmentFault for flow without OpenCV.
    """

    def __init__(
        self,
        *,
        rgb: TowerTable,
        motion: TowerTable,
        motion_input: str = "differences",
        frames: int = 8,
        frozen: bool = False,
    ):
        super().__init__(frames=frames, frozen=frozen)
        check_choice("vision 'two_stream'", MOTION_INPUTS, motion_input=motion_input)
        if motion_input == FLOW_INPUT:
            import_opencv()  # before a training, and not in its first batch
        self.motion_input = motion_input
        shared = {"frames": frames, "frozen": frozen}
        self.rgb: Vision = build_plug(visions, rgb | shared)
        self.motion: Vision = build_plug(visions, motion | shared)
        _check_towers(self.rgb, self.motion)
        if motion_input == FLOW_INPUT and self.rgb.image_settings.size < MIN_FLOW_SIDE:
            raise UsageFault(
                f"vision 'two_stream': flow needs frames of at least {MIN_FLOW_SIDE} pixels, not "
                f"{self.rgb.image_settings.size}"
            )
        self.dim = self.rgb.dim + self.motion.dim
        self.tokens_per_frame = self.rgb.tokens_per_frame
        self.image_settings = self.rgb.image_settings
        self.freeze()

    def forward(self, frames: Tensor, mask: Tensor, frame_counts: tuple[int, ...] = ()) -> Tokens:
        if frames.is_floating_point():
            return super().forward(frames, mask, frame_counts)
        rgb = self.rgb(frames, mask, frame_counts)
        motion_pictures = flow_pictures if self.motion_input == FLOW_INPUT else frame_differences
        motion = self.motion(motion_pictures(frames, mask), mask, frame_counts)
        return Tokens(torch.cat([rgb.x, motion.x], -1), rgb.mask)

    def parts(self) -> dict[str, Vision]:
        return {"vision.rgb": self.rgb, "vision.motion": self.motion}

    def blueprint(self) -> dict:
        return {
            "use": "two_stream",
            "rgb": self.rgb.blueprint(),
            "motion": self.motion.blueprint(),
            "motion_input": self.motion_input,
            "frames": self.frames,
            "frozen": self.frozen,
        }


def frame_differences(frames: Tensor, mask: Tensor) -> Tensor:
    """Return half the difference of each frame to the next one, around `STILL`: (B, F, 3, S, S)
    uint8 to the same.

    mask: (B, F) bool, real frames first. The last real frame gets the difference before it.
    """
    if frames.shape[1] < 2:
        return torch.full_like(frames, STILL)
    pixels = frames.float()
    steps = ((pixels[:, 1:] - pixels[:, :-1]) / 2 + STILL).round().clamp(0, 255).to(torch.uint8)
    has_next = mask[:, 1:, None, None, None]
    steps = torch.where(has_next, steps, STILL)
    still = torch.full_like(frames[:, :1], STILL)
    following = torch.cat([steps, still], 1)
    before = torch.cat([still, steps], 1)
    has_next = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
    return torch.where(has_next[:, :, None, None, None], following, before)


def _check_towers(rgb: Vision, motion: Vision) -> None:
    """Refuse towers whose vectors cannot be joined. Raises UsageFault."""
    for name, tower in (("rgb", rgb), ("motion", motion)):
        if tower.image_settings is None or getattr(tower, "clip_frames", None) is not None:
            raise UsageFault(
                f"vision 'two_stream': {name} needs a tower that encodes single frames"
            )
    if rgb.image_settings.size != motion.image_settings.size:
        raise UsageFault(
            f"vision 'two_stream': rgb takes frames of {rgb.image_settings.size} pixels, motion of "
            f"{motion.image_settings.size}; give both the same size"
        )
    if rgb.tokens_per_frame != motion.tokens_per_frame:
        raise UsageFault(
            f"vision 'two_stream': rgb has {rgb.tokens_per_frame} vectors of a frame, motion "
            f"{motion.tokens_per_frame}; give both the same patch_grid"
        )
