"""Synthetic frames for benchmarks."""

import io

import numpy as np
from PIL import Image, ImageDraw


def photo(rng: np.random.Generator) -> bytes:
    """Draw a JPEG frame of about 30 kB: a smooth background, shapes, a line of text, some noise.
    Half of the frames are portrait.
    """
    width = int(rng.choice([384, 400, 426, 455]))
    scene = Image.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8)).resize(
        (width, 256), Image.Resampling.BICUBIC
    )
    draw = ImageDraw.Draw(scene)
    for _ in range(30):
        x, y, box_width, box_height = (int(v) for v in rng.integers(0, (width, 256, 80, 80)))
        rng.choice([draw.ellipse, draw.rectangle])(
            (x, y, x + box_width, y + box_height),
            fill=tuple(int(v) for v in rng.integers(0, 256, 3)),
        )
    draw.text((20, 215), "The quick brown fox jumps over the lazy dog", fill="white", font_size=16)
    grain = (np.asarray(scene) + rng.normal(0, 5, (256, width, 1))).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(grain if rng.random() < 0.5 else grain.transpose(1, 0, 2)).save(
        stream, "JPEG", quality=int(rng.integers(85, 91))
    )
    return stream.getvalue()
