"""Optical flow between the frames of a video as pictures for a motion stream (Simonyan &
Zisserman, 2014), computed by OpenCV on the CPU (DIS; Kroeger et al., 2016).
"""

from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from wbdc.core.errors import EnvironmentFault

FLOW_INPUT = "flow"  # of the motion tower of vision plug "two_stream"
MAX_FLOW_PIXELS = 20.0  # larger motion is clipped
NO_MOTION = 128  # the pixel of a flow of 0
MIN_FLOW_SIDE = 16  # pixels; OpenCV refuses smaller frames


def flow_pictures(frames: Tensor, mask: Tensor) -> Tensor:
    """Return the flow of each frame to the next one: (B, F, 3, S, S) uint8 to the same, channels of
    the horizontal flow, the vertical flow and `NO_MOTION`.

    A flow of -20 to 20 pixels becomes 0 to 255. mask: (B, F) bool, real frames first. The last real
    frame gets the flow before it; a single one and padding get `NO_MOTION`. Raises EnvironmentFault
    without OpenCV.
    """
    cv2 = import_opencv()
    cv2.setNumThreads(torch.get_num_threads())
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    videos = frames.cpu().permute(0, 1, 3, 4, 2).numpy()
    pictures = np.full_like(videos, NO_MOTION)
    for video, count, picture in zip(videos, mask.sum(1).tolist(), pictures, strict=True):
        if count < 2:
            continue
        gray = [cv2.cvtColor(np.ascontiguousarray(f), cv2.COLOR_RGB2GRAY) for f in video[:count]]
        for i in range(count - 1):
            picture[i, ..., :2] = scale_flow(method.calc(gray[i], gray[i + 1], None))
        picture[count - 1] = picture[count - 2]
    return torch.from_numpy(pictures).permute(0, 1, 4, 2, 3).to(frames.device)


def scale_flow(flow: np.ndarray) -> np.ndarray:
    """Clip a flow in pixels to -20 to 20, and scale it to 0 to 255: float32 -> uint8."""
    clipped = np.clip(flow, -MAX_FLOW_PIXELS, MAX_FLOW_PIXELS)
    return np.rint((clipped / MAX_FLOW_PIXELS + 1) * (255 / 2)).astype(np.uint8)


def import_opencv() -> ModuleType:
    """Import OpenCV. Raises EnvironmentFault where it cannot be imported."""
    try:
        import cv2
    except ImportError as error:
        raise EnvironmentFault(
            f"vision 'two_stream': motion_input = 'flow' needs OpenCV ({error}); install it: pip "
            "install 'wbdc[flow]', or in a packed submission: pip install -r requirements.txt"
        ) from error
    return cv2
