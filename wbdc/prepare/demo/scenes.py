"""The frames of synthetic videos: a numbered scene (colors, layout, shape, motion), drawn frame by
frame with captions, and packed into an archive of JPEG files.
"""

import colorsys
import io
import math
import zipfile
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image, ImageDraw

HUES = 12
# Shapes with corners in parts of width and height. Every layout is symmetric, so that a flipped
# frame has the same class.
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
STUDIO = -1  # a gray room with a speaker, which videos of any class may show
MOTIONS = 5
OUTLINES = 4  # triangle, square, pentagon, circle
STUDIO_RATE, STUDIO_CUT_RATE = 0.05, 0.15  # videos in the studio, or that cut to it
PORTRAIT_RATE = 0.6
BACKDROP_CELLS = 8  # a side, before the backdrop is enlarged
ZIP_DATE = (2022, 1, 1, 0, 0, 0)  # of every member, so that bytes are reproducible
GLYPH_BITS = 6  # per side
GLYPH_STEP = 14  # pixels
GLYPH_HEIGHT = 12  # pixels

Color = tuple[int, int, int]


def draw_frames(
    rng: np.random.Generator, scene: int, seconds: int, captions: dict[int, str]
) -> Iterator[Image.Image]:
    """Draw the frames of a video, one per second: RGB, short side 128 to 160 pixels, 60 % portrait.

    scene: 0..SCENES-1 or STUDIO; captions: on-screen text by second. One video in twenty shows the
    studio only, and one in seven cuts to it at some second.
    """
    short_side = int(rng.integers(128, 161))
    ratio = float(rng.choice([1.25, 4 / 3, 1.5, 16 / 9]))
    long_side = round(short_side * ratio)
    is_portrait = rng.random() < PORTRAIT_RATE
    size = (short_side, long_side) if is_portrait else (long_side, short_side)

    chance, cut = rng.random(), int(rng.integers(seconds + 1))
    if chance < STUDIO_RATE:
        cut = 0
    elif chance >= STUDIO_RATE + STUDIO_CUT_RATE:
        cut = seconds
    motion = rng.random(4)
    main, studio = (_draw_backdrop(rng, number, size) for number in (scene, STUDIO))

    for second in range(seconds):
        in_studio = second >= cut
        backdrop, color = studio if in_studio else main
        frame = backdrop.copy()
        actor_scene = STUDIO if in_studio else scene
        _draw_actor(ImageDraw.Draw(frame), size, color, actor_scene, motion, second)
        if second in captions:
            _draw_caption(frame, captions[second])
        yield frame


def crop_and_resize(
    rng: np.random.Generator, frames: Iterable[Image.Image]
) -> Iterator[Image.Image]:
    """Change frames as a repost does: crop two to five pixels of each side and scale by 0.9 to 1.1,
    the same for all frames.
    """
    left, top, right, bottom = (int(pixels) for pixels in rng.integers(2, 6, size=4))
    scale = float(rng.uniform(0.9, 1.1))
    for frame in frames:
        part = frame.crop((left, top, frame.width - right, frame.height - bottom))
        size = (round(part.width * scale), round(part.height * scale))
        yield part.resize(size, Image.Resampling.BILINEAR)


def zip_frames(frames: Iterable[Image.Image], quality: int) -> bytes:
    """Return a zip archive with JPEG members `1.jpg`, `2.jpg`, ..., uncompressed, with a fixed
    date.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as file:
        for number, frame in enumerate(frames, 1):
            image = io.BytesIO()
            frame.save(image, "JPEG", quality=quality)
            member = zipfile.ZipInfo(f"{number}.jpg", date_time=ZIP_DATE)
            member.create_system = 3  # Unix, on every system
            member.external_attr = 0o644 << 16
            file.writestr(member, image.getvalue())
    return stream.getvalue()


def _draw_backdrop(
    rng: np.random.Generator, scene: int, size: tuple[int, int]
) -> tuple[Image.Image, Color]:
    """Draw the static part of a scene and choose the color of the actor. Light, hue and texture
    vary from video to video.
    """
    light = rng.uniform(0.8, 1.12)
    hue_shift = rng.normal(0, 0.015)
    grain = rng.normal(0, 10, size=(BACKDROP_CELLS, BACKDROP_CELLS, 1))
    if scene == STUDIO:
        hue = rng.random()
        saturation = 0.12
        layout = LAYOUTS[3]
    else:  # a hue has another layout in each block of HUES scenes
        hue, saturation = scene % HUES / HUES + hue_shift, 0.75
        layout = LAYOUTS[(scene + scene // HUES) % len(LAYOUTS)]

    above = np.array(_rgb(hue, saturation, 0.85 * light))
    below = np.array(_rgb(hue, saturation * 0.7, 0.5 * light))
    ramp = np.linspace(0, 1, BACKDROP_CELLS)[:, None, None]
    gradient = above * (1 - ramp) + below * ramp
    cells = np.broadcast_to(gradient, (BACKDROP_CELLS, BACKDROP_CELLS, 3)) + grain
    backdrop = Image.fromarray(cells.clip(0, 255).astype(np.uint8))
    backdrop = backdrop.resize(size, Image.Resampling.BICUBIC)

    shape, corners = layout
    points = [(x * size[0], y * size[1]) for x, y in zip(corners[::2], corners[1::2], strict=True)]
    fill = _rgb(hue + 0.12, saturation, 0.35 * light)
    getattr(ImageDraw.Draw(backdrop), shape)(points, fill=fill)
    return backdrop, _rgb(hue + 0.5, saturation, 0.95 * light)


def _draw_actor(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    color: Color,
    scene: int,
    motion: np.ndarray,
    second: int,
) -> None:
    """Draw the moving shape; the scene determines its outline and motion. motion: (4,) in 0..1:
    phase, speed, position and size for the video.
    """
    phase = motion[0] + second * (0.08 + 0.1 * motion[1])
    swing = math.sin(2 * math.pi * phase)
    radius = min(size) * (0.1 + 0.08 * motion[3])
    x, y = 0.5, 0.3 + 0.4 * motion[2]
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

    x, y = x * size[0], y * size[1]
    outline = scene % OUTLINES
    if outline == OUTLINES - 1:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    else:
        draw.regular_polygon((x, y, radius), n_sides=3 + outline, fill=color)


def _draw_caption(frame: Image.Image, text: str) -> None:
    """Draw a caption in block glyphs, since Pillow's own font has no Chinese characters.

    A glyph is a fixed 6 x 6 pattern of bits for each character, 12 pixels high.
    """
    max_characters = max(1, (frame.width - 8) // GLYPH_STEP)
    codes = np.array([ord(c) for c in text[:max_characters]], dtype=np.uint64)
    shifts = np.arange(20, 20 + GLYPH_BITS**2, dtype=np.uint64)
    bits = (codes * np.uint64(0x9E3779B97F4A7C15))[:, None] >> shifts & np.uint64(1)
    glyphs = np.zeros((GLYPH_BITS, len(codes), GLYPH_BITS + 1), dtype=np.uint8)
    patterns = bits.reshape(-1, GLYPH_BITS, GLYPH_BITS).transpose(1, 0, 2)
    glyphs[:, :, :GLYPH_BITS] = patterns * 255
    mask = Image.fromarray(glyphs.reshape(GLYPH_BITS, -1)).resize(
        (GLYPH_STEP * len(codes), GLYPH_HEIGHT), Image.Resampling.NEAREST
    )

    x, y = (frame.width - mask.width) // 2, round(frame.height * 0.85) - GLYPH_HEIGHT // 2
    box = (x - 2, y - 2, x + mask.width, y + GLYPH_HEIGHT + 1)
    ImageDraw.Draw(frame).rectangle(box, fill=(20, 20, 20))
    frame.paste((245, 245, 245), (x, y), mask)


def _rgb(hue: float, saturation: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, min(value, 1.0))
    return round(255 * red), round(255 * green), round(255 * blue)
