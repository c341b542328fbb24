"""What made-up videos show: a scene by number (colours, layout, shape, motion), drawn frame by
frame with captions, and its JPEG archive.
"""

import colorsys
import io
import math
import zipfile
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image, ImageDraw

HUES = 12
# Layouts look the same in a mirror, so that flipping a frame in training does not change its class.
# Boxes in parts of width and height.
LAYOUTS = (
    ("rectangle", (0.0, 0.6, 1.0, 1.0)),  # floor
    ("rectangle", (0.0, 0.0, 1.0, 0.3)),  # ceiling
    ("rectangle", (0.36, 0.0, 0.64, 1.0)),  # pillar
    ("ellipse", (0.2, 0.25, 0.8, 0.75)),  # disc
    ("rectangle", (0.0, 0.4, 1.0, 0.6)),  # belt
    ("polygon", (0.5, 0.2, 1.0, 1.0, 0.0, 1.0)),  # mountain
    ("rectangle", (0.2, 0.2, 0.8, 0.8)),  # window
    ("polygon", (0.5, 0.8, 1.0, 0.0, 0.0, 0.0)),  # funnel
    ("ellipse", (-0.3, 0.5, 1.3, 1.7)),  # hill
)
SCENES = HUES * len(LAYOUTS)
STUDIO = -1  # the grey room with a speaker that any class may have
MOTIONS = 5


def draw_frames(
    rng: np.random.Generator, scene: int, seconds: int, captions: dict[int, str]
) -> Iterator[Image.Image]:
    """Draw the frames of a video, one a second: RGB, short side 128..160 pixels, upright in six of
    ten.

    scene: 0..SCENES-1 or STUDIO; captions: on-screen text by second. One video in twenty is a
    studio throughout, and one in seven
    cuts to it at some second.
    """
    short, wide = int(rng.integers(128, 161)), float(rng.choice([1.25, 4 / 3, 1.5, 16 / 9]))
    size = (short, round(short * wide)) if rng.random() < 0.6 else (round(short * wide), short)
    fate, cut = rng.random(), int(rng.integers(seconds + 1))
    cut = 0 if fate < 0.05 else cut if fate < 0.2 else seconds
    path = rng.random(4)
    shown, studio = (_backdrop(rng, s, size) for s in (scene, STUDIO))
    for second in range(seconds):
        backdrop, colour = shown if second < cut else studio
        frame = backdrop.copy()
        _actor(ImageDraw.Draw(frame), size, colour, scene if second < cut else STUDIO, path, second)
        if second in captions:
            _caption(frame, captions[second])
        yield frame


def repeat_scene(rng: np.random.Generator, frames: Iterable[Image.Image]) -> Iterator[Image.Image]:
    """Repost frames: cut two to five pixels off each side and scale the rest by .9 to 1.1, alike
    for all.
    """
    left, top, right, bottom = (int(x) for x in rng.integers(2, 6, size=4))
    scale = float(rng.uniform(0.9, 1.1))
    for frame in frames:
        part = frame.crop((left, top, frame.width - right, frame.height - bottom))
        yield part.resize(
            (round(part.width * scale), round(part.height * scale)), Image.Resampling.BILINEAR
        )


def zip_frames(frames: Iterable[Image.Image], quality: int) -> bytes:
    """Return a zip of JPEG members `1.jpg`, `2.jpg`, ...: stored, since JPEG does not shrink, and
    with one date, so that bytes repeat.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as file:
        for number, frame in enumerate(frames, 1):
            picture = io.BytesIO()
            frame.save(picture, "JPEG", quality=quality)
            member = zipfile.ZipInfo(f"{number}.jpg", date_time=(2022, 1, 1, 0, 0, 0))
            member.create_system, member.external_attr = (
                3,
                0o644 << 16,
            )  # as on Unix, wherever it is made
            file.writestr(member, picture.getvalue())
    return stream.getvalue()


def _backdrop(
    rng: np.random.Generator, scene: int, size: tuple[int, int]
) -> tuple[Image.Image, tuple[int, int, int]]:
    """Paint what stands still, and choose the actor's colour. Light, hue and texture differ from
    video to video.
    """
    light, drift, grain = (
        rng.uniform(0.8, 1.12),
        rng.normal(0, 0.015),
        rng.normal(0, 10, size=(8, 8, 1)),
    )
    if scene == STUDIO:
        hue, strength, layout = rng.random(), 0.12, LAYOUTS[3]
    else:  # a hue comes back with another layout after HUES scenes
        hue, strength, layout = (
            scene % HUES / HUES + drift,
            0.75,
            LAYOUTS[(scene + scene // HUES) % len(LAYOUTS)],
        )
    above, below = _colour(hue, strength, 0.85 * light), _colour(hue, strength * 0.7, 0.5 * light)
    ramp = np.linspace(0, 1, 8)[:, None, None]
    coarse = (
        np.broadcast_to(np.array(above) * (1 - ramp) + np.array(below) * ramp, (8, 8, 3)) + grain
    )
    picture = Image.fromarray(coarse.clip(0, 255).astype(np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    kind, corners = layout
    spots = [(x * size[0], y * size[1]) for x, y in zip(corners[::2], corners[1::2], strict=True)]
    getattr(ImageDraw.Draw(picture), kind)(spots, fill=_colour(hue + 0.12, strength, 0.35 * light))
    return picture, _colour(hue + 0.5, strength, 0.95 * light)


def _actor(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    colour: tuple[int, int, int],
    scene: int,
    path: np.ndarray,
    second: int,
) -> None:
    """Draw the moving shape. The scene chooses its outline and motion; path, (4,) in 0..1: phase,
    speed, place and size of the video.
    """
    phase, side = path[0] + second * (0.08 + 0.1 * path[1]), min(size)
    swing, radius = math.sin(2 * math.pi * phase), side * (0.1 + 0.08 * path[3])
    x, y = 0.5, 0.3 + 0.4 * path[2]
    match scene % MOTIONS:
        case 0:
            x += 0.35 * swing
        case 1:
            y = 0.5 + 0.35 * swing
        case 2:
            x, y = x + 0.25 * swing, 0.5 + 0.25 * math.cos(2 * math.pi * phase)
        case 3:
            radius *= 1.3 + 0.5 * swing
        case 4:
            x, y = phase % 1, phase % 1
    place = (x * size[0], y * size[1], radius)
    if scene % 4 == 3:
        pen.ellipse(
            (place[0] - radius, place[1] - radius, place[0] + radius, place[1] + radius),
            fill=colour,
        )
    else:
        pen.regular_polygon(place, n_sides=3 + scene % 4, fill=colour)


def _caption(frame: Image.Image, text: str) -> None:
    """Write block glyphs, since Pillow's own font has no Chinese: each character is a fixed 6 x 6
    pattern, shown at 12 pixels.
    """
    fits = max(1, (frame.width - 8) // 14)
    codes = np.array([ord(c) for c in text[:fits]], dtype=np.uint64)
    bits = (codes * np.uint64(0x9E3779B97F4A7C15))[:, None] >> np.arange(
        20, 56, dtype=np.uint64
    ) & np.uint64(1)
    glyphs = np.zeros((6, len(codes), 7), dtype=np.uint8)
    glyphs[:, :, :6] = bits.reshape(-1, 6, 6).transpose(1, 0, 2) * 255
    mask = Image.fromarray(glyphs.reshape(6, -1)).resize(
        (14 * len(codes), 12), Image.Resampling.NEAREST
    )
    place = ((frame.width - mask.width) // 2, round(frame.height * 0.85) - 6)
    ImageDraw.Draw(frame).rectangle(
        (place[0] - 2, place[1] - 2, place[0] + mask.width, place[1] + 13), fill=(20, 20, 20)
    )
    frame.paste((245, 245, 245), place, mask)


def _colour(hue: float, strength: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, strength, min(value, 1.0))
    return round(255 * red), round(255 * green), round(255 * blue)
