"""Resizing: exact pixels equal Pillow's, fast ones stay close to them."""

import os
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import simplejpeg
import small
from PIL import Image

from wbdc.core.errors import UsageFault
from wbdc.core.findings import Findings
from wbdc.core.image_settings import ImageSettings
from wbdc.data import frames
from wbdc.data.frames import decode_frame, decode_frames
from wbdc.data.resize import (
    RESAMPLING,
    crop_square,
    jpeg_divisor,
    plan_geometry,
    resize_and_crop,
)

EXACT = small.IMAGE_SETTINGS
FAST = EXACT.with_resize("fast")


def noise(rng: random.Random, height: int, width: int) -> np.ndarray:
    return np.frombuffer(rng.randbytes(height * width * 3), np.uint8).reshape(height, width, 3)


@pytest.mark.parametrize("seed", range(4))
def test_exact_pixels_equal_those_of_pillow_with_any_order_of_its_passes(seed):
    """Noise, so that each value depends on the order of the passes and on each row."""
    rng, tall = random.Random(seed), 0
    for _ in range(150):
        size = rng.randint(1, 50)
        settings = EXACT._replace(
            size=size,
            short=rng.choice([None, size + rng.randint(0, 20)]),
            squash=rng.random() < 0.3,
            interpolation=rng.choice(list(RESAMPLING)),
        )
        height = rng.randint(1, 120)
        width = max(1, min(500, int(height * rng.uniform(0.1, 4))))
        pixels = noise(rng, height, width)
        geometry = plan_geometry(height, width, settings)
        whole = Image.fromarray(pixels).resize(
            (geometry.width, geometry.height), RESAMPLING[settings.interpolation]
        )
        expected = crop_square(np.asarray(whole), geometry, size)
        assert np.array_equal(resize_and_crop(pixels, settings, (height, width)), expected)
        tall += height - geometry.height > 2 * max(0, width - geometry.width)
    assert 5 < tall < 100


def gap(data: bytes, exact: ImageSettings) -> np.ndarray:
    """Return the absolute differences of fast pixels from exact ones."""
    expected = decode_frame(data, exact, Findings()).astype(int)
    return np.abs(decode_frame(data, exact.with_resize("fast"), Findings()) - expected)


@pytest.mark.parametrize("interpolation", RESAMPLING)
@pytest.mark.parametrize(
    ("width", "height"), [(300, 260), (256, 455), (455, 256), (130, 100), (224, 224), (200, 900)]
)
def test_fast_pixels_differ_from_exact_ones_by_two_levels_at_most(width, height, interpolation):
    """Many values of tall images differ, whose height Pillow resizes first."""
    data = small.encode(small.image(width, height), quality=90)
    for exact in (
        EXACT._replace(size=224, interpolation=interpolation),
        EXACT._replace(size=224, interpolation=interpolation, squash=True),
        EXACT._replace(size=200, short=224, interpolation=interpolation),
    ):
        difference = gap(data, exact)
        geometry = plan_geometry(height, width, exact)
        is_tall = height - geometry.height > 2 * max(0, width - geometry.width)
        assert difference.max() <= 2
        assert (difference > 0).mean() < (0.3 if is_tall else 0.01)


def test_a_png_is_resized_fast_too():
    """Pillow's arrays cannot be written to, and must not be."""
    image = small.image(300, 260)
    data = small.encode(image, "PNG")
    assert gap(data, EXACT._replace(size=224)).max() <= 2
    read_only = np.asarray(image)
    resize_and_crop(read_only, FAST, read_only.shape[:2])
    assert np.array_equal(read_only, np.asarray(image))


@pytest.mark.parametrize(
    ("width", "height", "divisor"),
    [(64, 64, 1), (100, 95, 1), (97, 96, 2), (300, 191, 2), (192, 200, 4), (400, 385, 8)],
)
def test_large_jpegs_are_reduced_by_the_decoder_when_fast(monkeypatch, width, height, divisor):
    shapes, decode = [], simplejpeg.decode_jpeg

    def recorded(*arguments, **named):
        shapes.append(decode(*arguments, **named))
        return shapes[-1]

    monkeypatch.setattr(frames.simplejpeg, "decode_jpeg", recorded)
    data = small.encode(small.image(width, height).convert("L").convert("RGB"), quality=90)
    difference = gap(data, EXACT)
    reduced = (-(-height // divisor), -(-width // divisor))
    assert [pixels.shape[:2] for pixels in shapes] == [(height, width), reduced]
    assert jpeg_divisor(height, width, EXACT) == 1
    assert difference.mean() < 2  # of noise; of photos, less than 1
    assert divisor == 1 or difference.mean() > 0.01


def test_a_reduced_jpeg_keeps_its_position():
    """The edge between black and white lies where the exact one lies."""
    picture = np.zeros((899, 1301, 3), np.uint8)
    picture[:, 650:] = 255
    data = small.encode(Image.fromarray(picture), quality=95)
    settings = EXACT._replace(size=224)
    exact, fast = (
        decode_frame(data, s, Findings()).astype(float).mean((0, 1))
        for s in (settings, settings.with_resize("fast"))
    )
    assert abs(exact.sum() - fast.sum()) < 255 / 4  # a quarter of a pixel


@pytest.mark.parametrize("settings", [EXACT, FAST], ids=["exact", "fast"])
def test_frames_of_one_thread_do_not_share_memory(settings):
    """32 x 32 is not resized at all: what is returned must still be a copy."""
    encoded = small.photos(2, width=32, height=32) + small.photos(2, width=64, height=40)
    together = decode_frames(encoded, settings, Findings())
    apart = [decode_frame(data, settings, Findings()) for data in encoded]
    decode_frame(encoded[3], settings, Findings())
    assert np.array_equal(together, np.stack(apart))
    assert len({frame.tobytes() for frame in together}) == 4


@pytest.mark.parametrize("settings", [EXACT, FAST], ids=["exact", "fast"])
def test_threads_do_not_share_memory(settings):
    encoded = [small.encode(small.image(200 + i, 180), quality=90) for i in range(6)] * 8
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda data: decode_frame(data, settings, Findings()), encoded))
    apart = [decode_frame(data, settings, Findings()) for data in encoded[:6]]
    assert all(np.array_equal(frame, apart[i % 6]) for i, frame in enumerate(together))


WITHOUT_VECTORS = """
import hashlib, sys
import numpy as np, torch
from wbdc.core.image_settings import ImageSettings
from wbdc.data.resize import resize_and_crop
digest = hashlib.sha256()
pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
for size in (13, 48, 64, 100):
    for interpolation in ("bicubic", "bilinear"):
        settings = ImageSettings(size, (0,) * 3, (1,) * 3, interpolation, resize="fast")
        digest.update(resize_and_crop(pixels, settings, (70, 90)).tobytes())
print(torch.backends.cpu.get_cpu_capability(), digest.hexdigest())
"""


@pytest.mark.slow  # imports torch twice
def test_fast_pixels_are_equal_on_a_cpu_without_vectors():
    lines = [
        small.python(WITHOUT_VECTORS, env=os.environ | changes).stdout.split()
        for changes in ({}, {"ATEN_CPU_CAPABILITY": "default"})
    ]
    assert lines[1][0] == "DEFAULT"
    assert lines[0][1] == lines[1][1]


def test_frames_are_written_where_they_belong():
    """Damaged frames leave no gap, and nothing beyond the last frame is touched."""
    encoded = small.photos(3)
    into = np.full((4, 3, 32, 32), 7, np.uint8)
    decoded = decode_frames([encoded[0], b"x", encoded[2]], EXACT, Findings(), "v", into)
    assert np.shares_memory(decoded, into)
    assert np.array_equal(decoded, decode_frames([encoded[0], encoded[2]], EXACT, Findings()))
    assert (into[2:] == 7).all()


def test_settings_without_resize_are_exact_and_an_unknown_one_is_refused():
    table = EXACT.to_table()
    assert "resize" not in table
    assert ImageSettings.from_table(table).resize == "exact"
    assert ImageSettings.from_table(FAST.to_table()) == FAST != EXACT
    with pytest.raises(UsageFault, match="resize = 'fas' is unknown; did you mean 'fast'"):
        ImageSettings.from_table(table | {"resize": "fas"})
