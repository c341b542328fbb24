"""Frames decoded on a GPU: pixels near those of the CPU, and the same findings. Without a GPU,
torchvision's decoder on the CPU takes its place.
"""

import numpy as np
import pytest
import small
import torch
from torchvision.io import ImageReadMode, decode_jpeg

from wbdc.core.errors import EnvironmentFault
from wbdc.core.findings import Findings
from wbdc.data.frames import decode_frames
from wbdc.data.gpu_frames import decode_frames_on_gpu, jpeg_decoder

CPU = torch.device("cpu")
SETTINGS = {
    "resized": small.IMAGE_SETTINGS,
    "enlarged": small.IMAGE_SETTINGS._replace(size=48),
    "cut": small.IMAGE_SETTINGS._replace(size=24, short=30),
    "squashed": small.IMAGE_SETTINGS._replace(squash=True, interpolation="bilinear"),
}
MAX_LEVELS = 2  # of 255


def decode_on_cpu(encoded: list[torch.Tensor]) -> list[torch.Tensor]:
    return decode_jpeg(encoded, mode=ImageReadMode.RGB)


def both(encoded, settings, decode=decode_on_cpu):
    """Return the pixels and findings of the GPU's way and of the CPU's."""
    findings = [Findings(), Findings()]
    pixels = decode_frames_on_gpu(encoded, settings, CPU, decode, findings[0], "v").numpy()
    expected = decode_frames(encoded, settings, findings[1], "v")
    assert findings[0].report() == findings[1].report()
    assert pixels.shape == expected.shape
    assert pixels.dtype == np.uint8
    return pixels.astype(int), expected.astype(int), findings[0].counts


@pytest.mark.parametrize("name", SETTINGS)
def test_pixels_are_near_those_of_the_cpu(name):
    encoded = [*small.photos(2, width=90, height=64), *small.photos(1, seed=5, width=64)]
    pixels, expected, _ = both(encoded, SETTINGS[name])
    assert abs(pixels - expected).max() <= MAX_LEVELS
    assert abs(pixels - expected).mean() < 0.1
    assert abs(np.roll(pixels, 1, 3) - expected).max() > MAX_LEVELS


def test_other_frames_are_decoded_by_the_cpu_in_their_order():
    """A PNG, a JPEG that is cut off, a long strip, an empty file; nothing goes to the GPU twice."""
    first, second = small.photos(2)
    png = small.encode(small.image(seed=3), "PNG")
    strip = small.encode(small.image(width=700, height=20))
    sent = []

    def decode(jpegs):
        sent.append(len(jpegs))
        return decode_on_cpu(jpegs)

    frames = [png, first, second[:-2], strip, b"", second]
    pixels, expected, counts = both(frames, small.IMAGE_SETTINGS, decode)
    assert sent == [2]
    assert counts["frame.format"] == 1
    assert len(pixels) == len(expected) >= 4
    assert abs(pixels - expected).max() <= MAX_LEVELS
    assert (pixels[0] == expected[0]).all()
    assert len(both([b""], small.IMAGE_SETTINGS)[0]) == 0


def test_a_video_with_a_frame_that_the_gpu_refuses_is_decoded_by_the_cpu():
    def refuse(jpegs):
        raise RuntimeError("nvjpegDecodeBatched failed: 2")

    def exhaust(jpegs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    photos = small.photos(2)
    pixels, expected, _ = both(photos, small.IMAGE_SETTINGS, refuse)
    assert (pixels == expected).all()
    with pytest.raises(torch.OutOfMemoryError):
        both(photos, small.IMAGE_SETTINGS, exhaust)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU, which may decode")
def test_a_gpu_that_cannot_decode_is_named():
    with pytest.raises(EnvironmentFault, match="cannot decode JPEGs on cuda"):
        jpeg_decoder(torch.device("cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="nvJPEG needs a GPU")
def test_the_pixels_of_a_gpu_are_near_those_of_the_cpu():
    """nvJPEG rounds the inverse cosine transform and interpolates colors in its own way."""
    device = torch.device("cuda")
    photos = small.photos(4, width=256, height=256)
    pixels = decode_frames_on_gpu(
        photos, small.IMAGE_SETTINGS, device, jpeg_decoder(device), Findings()
    )
    expected = decode_frames(photos, small.IMAGE_SETTINGS, Findings())
    difference = abs(pixels.cpu().numpy().astype(int) - expected.astype(int))
    assert difference.mean() < 1
    assert difference.max() <= 16
