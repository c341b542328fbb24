"""Frames decoded on a GPU: JPEGs by its decoder, and resized there; all others as on a CPU.

A GPU rounds differently from the decoder on a CPU: of a photo, values differ by a few levels.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from torch import Tensor

from wbdc.core.errors import EnvironmentFault
from wbdc.core.findings import Findings
from wbdc.core.image_settings import ImageSettings
from wbdc.core.out_of_memory import raise_if_exhausted
from wbdc.data.frames import decode_frame, plain_jpeg_size
from wbdc.data.resize import is_strip, plan_geometry

END_OF_IMAGE = b"\xff\xd9"  # without it, a JPEG is cut off, which the decoder of a GPU may ignore

# decodes JPEGs, (n,) uint8 on the CPU each, to RGB, (3, H, W) uint8 on the GPU each
JpegDecoder = Callable[[list[Tensor]], list[Tensor]]


def jpeg_decoder(device: torch.device) -> JpegDecoder:
    """Return torchvision's decoder for a GPU (nvJPEG).

    Raises EnvironmentFault when it cannot decode here.
    """
    from torchvision.io import ImageReadMode, decode_jpeg  # takes seconds

    def decode(encoded: list[Tensor]) -> list[Tensor]:
        return decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)

    try:
        decode([_to_tensor(simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8)))])
    except (RuntimeError, TypeError) as error:
        raise EnvironmentFault(
            f"torchvision cannot decode JPEGs on {device} ({str(error)[:200]}); install one that "
            "was built with CUDA, or pack without --gpu jpeg"
        ) from error
    return decode


def decode_frames_on_gpu(
    encoded: Sequence[bytes],
    settings: ImageSettings,
    device: torch.device,
    decode: JpegDecoder,
    findings: Findings,
    location: str = "",
) -> Tensor:
    """Decode frames in the current stream: (n, 3, S, S) uint8 on the device, in order.

    Frames that are no complete upright JPEG are decoded by the CPU, and so are all of a video with
    one that the GPU refuses. Damaged frames are dropped and counted as `decode_frames` does.
    """
    numbers = [i for i, data in enumerate(encoded) if _is_for_gpu(data, settings)]
    squares: dict[int, Tensor] = {}
    try:
        if numbers:
            jpegs = decode([_to_tensor(encoded[number]) for number in numbers])
            squares = _resize_together(dict(zip(numbers, jpegs, strict=True)), settings)
    except RuntimeError as error:  # one of them is damaged
        raise_if_exhausted(error)

    for number, data in enumerate(encoded):
        if number not in squares:
            square = decode_frame(data, settings, findings, f"{location}#{number}")
            if square is not None:
                squares[number] = torch.from_numpy(square).to(device)
    if not squares:
        return torch.zeros(0, 3, settings.size, settings.size, dtype=torch.uint8, device=device)
    return torch.stack([squares[number] for number in sorted(squares)])


def resize_and_crop_on_gpu(images: Tensor, settings: ImageSettings) -> Tensor:
    """Resize images of one size and crop their centers: (n, 3, H, W) uint8 -> (n, 3, S, S) uint8.

    It computes in FP32, on any device, and rounds after each side as Pillow does: of a photo, a few
    values in a hundred differ from `resize_exact`, by a level.
    """
    height, width = images.shape[2:]
    geometry = plan_geometry(height, width, settings)
    resized = images.float()
    for size in ((height, geometry.width), (geometry.height, geometry.width)):
        if size != tuple(resized.shape[2:]):
            resized = F.interpolate(resized, size, mode=settings.interpolation, antialias=True)
            resized = resized.round_().clamp_(0, 255)
    rows, columns = (
        slice(first, first + settings.size) for first in (geometry.first_row, geometry.first_column)
    )
    return resized[:, :, rows, columns].to(torch.uint8)


def _resize_together(images: dict[int, Tensor], settings: ImageSettings) -> dict[int, Tensor]:
    """Resize images (3, H, W) by their numbers, those of one size at once."""
    numbers = defaultdict(list)
    for number, image in images.items():
        numbers[image.shape].append(number)
    squares = {}
    for group in numbers.values():
        resized = resize_and_crop_on_gpu(torch.stack([images[i] for i in group]), settings)
        squares |= dict(zip(group, resized, strict=True))
    return squares


def _is_for_gpu(data: bytes, settings: ImageSettings) -> bool:
    """Return whether a file is a complete upright JPEG whose ends are not cropped first."""
    try:
        size = plain_jpeg_size(data)
    except ValueError:  # it declares too many pixels, which `decode_frame` counts
        return False
    if size is None or not data.endswith(END_OF_IMAGE):
        return False
    return settings.squash or not is_strip(*size)


def _to_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
