"""Frames: pixels equal torchvision's, and damaged images are counted and dropped."""

import contextlib
import io
import json
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
import small
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from wbdc.core.errors import UsageFault
from wbdc.core.findings import Findings
from wbdc.core.image_settings import ImageSettings
from wbdc.data import frames
from wbdc.data.frames import decode_frame, decode_frames, probe_image
from wbdc.nets.vision.timm import Timm

EXIF = 0x0112


def image_settings(
    size: int = 32, interpolation: str = "bicubic", short: int | None = None
) -> ImageSettings:
    return small.IMAGE_SETTINGS._replace(size=size, interpolation=interpolation, short=short)


def decode(data: bytes, size: int = 32, interpolation: str = "bicubic", short: int | None = None):
    """Return one decoded frame as (S, S, 3) or None, and the findings."""
    findings = Findings()
    pixels = decode_frame(data, image_settings(size, interpolation, short), findings, "v#0")
    assert pixels is None or (
        pixels.shape == (3, size, size)
        and pixels.dtype == np.uint8
        and pixels.flags["C_CONTIGUOUS"]
    )
    return None if pixels is None else pixels.transpose(1, 2, 0), findings.counts


def proven(data: bytes):
    """Return the result of `probe_image` and the findings."""
    findings = Findings()
    proof = probe_image(data, findings, "v#0")
    assert proof is None or (proof[2].shape == (32, 32) and proof[2].dtype == np.uint8)
    return proof, findings.counts


def longhand(data: bytes, size: int, interpolation: str, short: int | None = None) -> np.ndarray:
    """Decode with Pillow and torchvision's Resize and CenterCrop."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(
            Compose([Resize(short or size, InterpolationMode(interpolation)), CenterCrop(size)])(
                picture.convert("RGB")
            )
        )


FORMS = {
    "plain": lambda image: small.encode(image, quality=85),
    "4:4:4": lambda image: small.encode(image, quality=95, subsampling=0),
    "4:2:2": lambda image: small.encode(image, quality=70, subsampling=1),
    "progressive": lambda image: small.encode(image, progressive=True),
    "gray": lambda image: small.encode(image.convert("L")),
    "RGB": lambda image: small.encode(image, keep_rgb=True),
    "restarts": lambda image: small.encode(image, restart_marker_blocks=1),
    "PNG": lambda image: small.encode(image, "PNG"),
    "CMYK": lambda image: small.encode(image.convert("CMYK")),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("width", "height"),
    [(64, 48), (48, 64), (57, 57), (33, 100), (16, 9), (200, 32), (32, 32), (1, 1), (7, 100)],
)
def test_pixels_equal_those_of_torchvision(form, width, height):
    data = FORMS[form](small.image(width, height))
    for size, interpolation in ((32, "bicubic"), (31, "bilinear"), (64, "bicubic")):
        assert np.array_equal(
            decode(data, size, interpolation)[0], longhand(data, size, interpolation)
        )


@pytest.mark.parametrize("seed", range(3))
def test_pixels_equal_those_of_torchvision_at_any_size(seed):
    rng = random.Random(seed)
    for _ in range(12):
        width, size, interpolation = (
            rng.randint(8, 120),
            rng.randint(8, 96),
            rng.choice(["bicubic", "bilinear"]),
        )
        data = small.encode(
            small.image(width, rng.randint(max(8, width // 15), min(120, 15 * width)), seed)
        )
        assert np.array_equal(
            decode(data, size, interpolation)[0], longhand(data, size, interpolation)
        )


@pytest.mark.parametrize(
    ("width", "height"),
    [(36, 36), (36, 64), (64, 36), (37, 55), (16, 9), (150, 20), (33, 36), (72, 1)],
)
def test_a_square_smaller_than_the_short_side_is_cropped_from_the_center(width, height):
    """timm's crop_pct: the short side becomes 36, of which 32 are used; where it has 36
    already, nothing is resized.
    """
    for interpolation, short in (("bicubic", 36), ("bilinear", 37), ("bicubic", 32)):
        data = small.encode(small.image(width, height))
        assert (width, height) == (72, 1) or np.array_equal(
            decode(data, 32, interpolation, short)[0], longhand(data, 32, interpolation, short)
        )
        assert decode(data, 32, interpolation, short)[0].shape == (32, 32, 3)


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_the_transform_of_a_timm_tower_equals_timms(model):
    tower = Timm(model=model, pretrained=False)
    timm_transform = create_transform(**resolve_model_data_config(tower.tower), is_training=False)
    for width, height in ((200, 300), (256, 168), (90, 70)):
        data = small.encode(small.image(width, height))
        with Image.open(io.BytesIO(data)) as picture:
            expected = timm_transform(picture.convert("RGB"))
        pixels = decode_frame(data, tower.image_settings, Findings()).astype(np.float32) / 255
        mean, std = (
            np.float32(v).reshape(3, 1, 1)
            for v in (tower.image_settings.mean, tower.image_settings.std)
        )
        np.testing.assert_allclose((pixels - mean) / std, expected.numpy(), rtol=1e-5, atol=1e-5)
    assert tower.image_settings.short == 168
    assert Timm(model=model, pretrained=False, size=64).image_settings.short is None


def test_other_crop_modes_of_timm_are_ignored(monkeypatch):
    wants = resolve_model_data_config(Timm(model="test_resnet", pretrained=False).tower)
    for crop in (
        {"crop_mode": "squash"},
        {"crop_mode": "border"},
        {"crop_pct": 1.0},
        {"crop_pct": 1.15},
    ):
        monkeypatch.setattr(
            "timm.data.resolve_model_data_config", lambda tower, crop=crop: wants | crop
        )
        assert Timm(model="test_resnet", pretrained=False).image_settings.short is None


def test_an_older_table_without_short_gives_the_same_transform():
    saved = image_settings().to_table()
    assert saved.keys() == {"size", "mean", "std", "interpolation"}
    assert (
        ImageSettings.from_table(saved)
        == ImageSettings.from_table(saved | {"short": None})
        == image_settings()
    )
    assert ImageSettings.from_table(
        json.loads(json.dumps(image_settings(short=40).to_table()))
    ) == image_settings(short=40)
    with pytest.raises(UsageFault, match="image.short = 31 is smaller than image.size = 32"):
        ImageSettings.from_table(image_settings(short=31).to_table())


def test_trap_28_every_image_becomes_rgb():
    red = Image.new("RGB", (20, 20), (250, 10, 10))
    for mode in ("RGB", "P", "RGBA", "LA", "1", "CMYK"):
        form = "JPEG" if mode == "CMYK" else "PNG"
        with Image.open(io.BytesIO(small.encode(red.convert(mode), form))) as picture:
            meant = np.asarray(picture.convert("RGB"))
        assert np.array_equal(decode(small.encode(red.convert(mode), form), 20)[0], meant)
    clear = Image.new("RGBA", (20, 20), (200, 100, 50, 0))
    assert decode(small.encode(clear, "PNG"))[0].max() == 0  # what is transparent lies on black


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_images_become_upright(orientation, form):
    """EXIF says how; the corners of a marked image are compared."""
    from PIL import ImageOps

    marks = np.zeros((40, 40, 3), np.uint8)
    marks[:20, :20], marks[:20, 20:], marks[20:, :20] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[EXIF] = orientation
    data = small.encode(
        Image.fromarray(marks), form, exif=exif, **({"lossless": True} if form == "WEBP" else {})
    )
    with Image.open(io.BytesIO(data)) as picture:
        upright = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    assert np.array_equal(decode(data, 40)[0], upright)


@pytest.mark.parametrize("broken", [0, 9, 255, 65535])
def test_an_invalid_orientation_is_ignored(broken):
    exif = Image.Exif()
    exif[EXIF] = broken
    plain, marked = small.encode(small.image()), small.encode(small.image(), exif=exif)
    assert np.array_equal(decode(plain)[0], decode(marked)[0])
    assert not decode(marked)[1]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_exif_block_is_ignored():
    exif = Image.Exif()
    exif[EXIF], exif[0x010E] = 6, "a picture"
    data = small.encode(small.image(), exif=exif)
    at, rng = data.index(b"Exif"), random.Random(0)
    for _ in range(
        150
    ):  # found so: struct.error of Pillow, which rewrote the block to turn the picture
        flipped = bytearray(data)
        for _ in range(3):
            flipped[at + rng.randrange(6, 40)] = rng.choice([0, 255, rng.randrange(256)])
        assert decode(bytes(flipped))[0] is not None


def test_16_bits_of_gray_are_scaled_and_not_clipped():
    gray = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    pixels, _ = decode(small.encode(Image.fromarray(gray), "PNG"))
    assert np.array_equal(pixels[..., 0], (gray / 257).round())
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "GIF"])
def test_formats_are_detected_by_content_and_counted(form):
    pixels, counts = decode(
        small.encode(small.image(), form, **({"lossless": True} if form == "WEBP" else {}))
    )
    assert counts == {"frame.format": 1}
    assert form == "GIF" or np.array_equal(
        pixels, longhand(small.encode(small.image(), "PNG"), 32, "bicubic")
    )


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that declares a size."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )  # noqa: E731

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    """A JPEG whose header declares a wrong size."""
    data = bytearray(small.encode(small.image()))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


PHOTO = small.encode(small.image(64, 48))
DAMAGED = {
    "half a JPEG": PHOTO[: len(PHOTO) // 2],
    "a JPEG without its end": PHOTO[:-40],
    "a header": PHOTO[:120],
    "two bytes": PHOTO[:2],
    "half a PNG": small.encode(small.image(64, 48), "PNG")[:3000],
    "half a GIF": small.encode(small.image(64, 48), "GIF")[:1200],
    "half a WebP": small.encode(small.image(64, 48), "WEBP")[:400],
    "a damaged scan": PHOTO[:700] + bytes(200) + PHOTO[900:],
    "a web page": b"<html>404</html>",
    "an EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "a bomb in PNG": png(65500, 65500),
    "a bomb in JPEG": jpeg(65500, 65500),
    "a JPEG that declares too much": jpeg(4000, 4000),
    "no width": png(0, 5),
    "a line": png(60_000, 1),
    "a PNG without pixels": png(20, 20, zlib.compress(b"")),
    "a PNG with a damaged stream": png(20, 20, zlib.compress(bytes(400)) + b"\xff" * 30),
    "a PNG with too little": png(20, 20, zlib.compress(bytes(range(256)))[:150] + b"\xff" * 30),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_fault_13_a_damaged_image_is_counted_and_dropped(name):
    """Half a picture is no picture: gray bands are not trained on. A PNG half read was taken once
    its EXIF block had been asked for.
    """
    pixels, counts = decode(DAMAGED[name])
    assert pixels is None
    assert counts.pop("frame.format", 1) == 1
    assert counts == {"frame.damaged": 1}


SHORT = [
    MemoryError(),
    ValueError("Insufficient memory (case 4)"),
    RuntimeError("Pixel allocation failed: Out of memory"),
    OSError("out of memory"),
]


@pytest.mark.parametrize("error", SHORT, ids=str)
def test_fault_23_too_little_memory_is_not_a_damaged_image(monkeypatch, error):
    def fail(*arguments, **named):
        raise error

    monkeypatch.setattr(frames.simplejpeg, "decode_jpeg", fail)
    findings = Findings()
    for read in (
        lambda: decode_frame(PHOTO, image_settings(), findings),
        lambda: probe_image(PHOTO, findings),
    ):
        with pytest.raises(type(error)):
            read()
    assert not findings.counts


@pytest.mark.parametrize("short", [True, False])
def test_fault_23_a_webp_is_damaged_only_if_memory_is_available(monkeypatch, short):
    broken = DAMAGED["half a WebP"]
    monkeypatch.setattr(frames, "is_memory_short", lambda: short)
    with pytest.raises(MemoryError) if short else contextlib.nullcontext():
        assert decode(broken[:100]) == (None, {"frame.damaged": 1})


UNDER_A_LIMIT = """
import io, resource
import numpy as np
from PIL import Image
from wbdc.core.findings import Findings
from wbdc.core.out_of_memory import is_out_of_memory
from wbdc.data.frames import probe_image

stream = io.BytesIO()
Image.effect_noise((3000, 3000), 50).convert("RGB").save(stream, "{form}")
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
filler = []
resource.setrlimit(resource.RLIMIT_AS, (size + 2**20, -1))
try:
    while True:  # what the allocator holds back is used up first
        filler.append(bytearray(2**20))
except MemoryError:
    pass
found, raised = Findings(), None
try:
    probe_image(stream.getvalue(), found)
except Exception as error:
    raised = is_out_of_memory(error)
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
print(raised, found.counts)
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_fault_23_an_image_under_a_memory_limit(form):
    process = small.python(UNDER_A_LIMIT.format(form=form))
    assert process.stdout.startswith("True Counter("), process.stderr
    assert "frame.damaged" not in process.stdout


def test_an_empty_frame_was_counted_where_it_was_read():
    assert decode(b"") == (None, {})


def test_trap_11_frames_keep_their_order_and_damaged_ones_are_dropped():
    data, findings = small.photos(4), Findings()
    pixels = decode_frames([data[0], b"", data[1][:300], data[3]], image_settings(), findings, "v")
    assert np.array_equal(
        pixels,
        np.stack([decode_frame(d, image_settings(), Findings()) for d in (data[0], data[3])]),
    )
    assert findings.report() == {
        "frame.damaged": {"count": 1, "places": findings.places["frame.damaged"]}
    }
    assert "v#2" in findings.places["frame.damaged"][0]
    assert (
        decode_frames([], image_settings(), findings).shape
        == (0, 3, 32, 32)
        == decode_frames([b"x"], image_settings(), findings).shape
    )
    assert np.array_equal(
        decode_frames(data, image_settings(), Findings()),
        decode_frames(data, image_settings(), Findings()),
    )


def test_a_strip_is_cut_before_it_grows():
    """4000 x 2 resized whole would be 448,000 x 224: 400 MB for one frame."""
    strip = small.image(4000, 2)
    pixels, counts = decode(small.encode(strip, "PNG"), 224)
    middle = np.asarray(strip)[:, 1984:2016]
    assert np.array_equal(pixels, frames.resize_and_crop(middle, image_settings(224), (2, 32)))
    assert counts == {"frame.format": 1}


MEASURED = """
import re, sys
from pathlib import Path
from wbdc.core.findings import Findings
from wbdc.core.image_settings import ImageSettings
from wbdc.data.frames import decode_frame, probe_image
def peak():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s*(\\d+)", status)[1]) // 1024
calm, *bombs = [Path(p).read_bytes() for p in sys.argv[1:]]
settings, found = ImageSettings(224, (0,) * 3, (1,) * 3), Findings()
decode_frame(calm, settings, found)
before = peak()
for bomb in bombs:
    decode_frame(bomb, settings, found), probe_image(bomb, Findings())
print(dict(found.counts), peak() - before)
"""


def test_fault_14_a_bomb_is_refused_by_its_header(tmp_path):
    data = {
        "calm.jpg": PHOTO,
        "a.png": png(65500, 65500),
        "b.jpg": jpeg(65500, 65500),
        "c.jpg": jpeg(9000, 9000),
        "d.jpg": small.encode(small.image(4000, 2)),
    }
    for name, content in data.items():
        (tmp_path / name).write_bytes(content)
    child = small.python(MEASURED, *(tmp_path / name for name in data))
    counts, rise = child.stdout.rsplit(" ", 1)
    assert counts == "{'frame.damaged': 3}", child.stderr
    assert int(rise) < 50


@pytest.mark.slow
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_fault_13_flipped_bytes_are_never_raised(form):
    data, rng = small.encode(small.image(24, 18), form), random.Random(form)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(40):
            flipped = bytearray(data[: rng.choice([len(data), rng.randrange(1, len(data))])])
            for _ in range(rng.randint(1, 6)):
                flipped[rng.randrange(min(len(flipped), rng.choice([60, 10_000])))] = rng.choice(
                    [0, 255, 128, rng.randrange(256)]
                )
            pixels, counts = decode(bytes(flipped))
            assert (pixels is None) == ("frame.damaged" in counts)


REFUSED, SEEN, OTHER = {"frame.damaged": 1}, {}, {"frame.format": 1}
NASTY = {
    "truncated_half.jpg": REFUSED,  # "never feed grey silently"
    "truncated_header.jpg": REFUSED,
    "truncated_pillow.jpg": REFUSED,
    "zero_width.gif": REFUSED,
    "corrupt_scan.jpg": REFUSED,
    "html_404.jpg": REFUSED,
    "progressive.jpg": SEEN,
    "cmyk_adobe.jpg": SEEN,
    "cmyk_plain.jpg": SEEN,
    "grayscale.jpg": SEEN,
    "exif_orientation_3.jpg": SEEN,
    "exif_orientation_6.jpg": SEEN,
    "exif_orientation_8.jpg": SEEN,
    "exif_portrait_6.jpg": SEEN,
    "junk_before_soi.jpg": REFUSED,  # "decode or skip with a name"
    "invalid_exif.jpg": SEEN,
    "mpo_two_pictures.jpg": SEEN,
    "webp_named.jpg": OTHER,
    "webp_orientation_named.jpg": OTHER,
    "animated_gif_named.jpg": OTHER,
    "apng_16bit.png": OTHER,
    "gray16.png": OTHER,
    "rgba_transparent.png": OTHER,
    "palette_transparent.png": OTHER,
    "bmp_named.jpg": OTHER,
    "avif_named.jpg": OTHER,
    "broken_stream.png": REFUSED | OTHER,
    "bomb.gif": REFUSED,
    "bomb_20000x20000_1bit.png": REFUSED,
    "one_pixel.jpg": SEEN,
    "strip_4000x2.jpg": SEEN,
    "big_6000x4000.jpg": SEEN,
    "jpeg_plus_trailing.jpg": SEEN,
    "black.jpg": SEEN,
}
ALLOWED = {"error": (REFUSED, REFUSED | OTHER), "fine": (SEEN, OTHER), "warning": (REFUSED, OTHER)}


def test_every_nasty_image_has_an_expected_outcome(real_data):
    """error: left out and counted; fine: decoded; warning: counted. What is empty was counted where
    it was read.
    """
    index = json.loads((real_data / "nasty" / "nasty.json").read_text())
    verdicts = {
        e["file"].removeprefix("images/"): e["verdict"]
        for e in index
        if e["file"].startswith("images/") and e["bytes"]
    }
    assert verdicts.keys() == NASTY.keys()
    assert [name for name, verdict in verdicts.items() if NASTY[name] not in ALLOWED[verdict]] == []


@pytest.mark.parametrize("name", NASTY)
def test_decoding_and_probing_a_nasty_image_agree(name, real_data):
    data = (real_data / "nasty" / "images" / name).read_bytes()
    (pixels, counts), (proof, probe_counts) = decode(data), proven(data)
    assert counts == probe_counts == NASTY[name]
    assert (pixels is None) == (proof is None) == ("frame.damaged" in counts)


# ---- proofs


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("width", "height"), [(64, 48), (300, 410), (33, 32), (16, 9), (1, 1), (200, 32)]
)
def test_probe_image_returns_the_size_and_a_gray_thumbnail(form, width, height):
    data = FORMS[form](small.image(width, height))
    (wide, high, gray), counts = proven(data)
    with Image.open(io.BytesIO(data)) as picture:
        meant = np.asarray(
            picture.convert("RGB").convert("L").resize((32, 32), Image.Resampling.HAMMING)
        ).astype(int)
    assert (wide, high) == (width, height)
    assert counts.keys() <= {"frame.format"}
    assert np.abs(gray - meant).mean() < 3
    assert np.abs(gray - meant).max() < 20


def test_probe_image_is_upright():
    exif = Image.Exif()
    exif[EXIF] = 6
    wide, high, gray = proven(small.encode(small.image(64, 48), exif=exif))[0]
    upright = proven(
        small.encode(small.image(64, 48).transpose(Image.Transpose.ROTATE_270), quality=95)
    )[0]
    assert (wide, high) == (48, 64) == upright[:2]
    assert np.abs(gray.astype(int) - upright[2]).mean() < 4


@pytest.mark.parametrize("name", [*DAMAGED, "nothing"])
def test_probe_image_of_a_damaged_frame_is_none(name):
    data = DAMAGED.get(name, b"")
    assert proven(data)[0] is None
    assert proven(data)[1] == decode(data)[1]


def damages(data: bytes, count: int, rng: random.Random):
    """Cut, flip, drop and insert bytes; half the time in the header."""
    for _ in range(count):
        hurt = bytearray(data[: rng.choice([len(data), rng.randrange(1, len(data))])])
        for _ in range(rng.randint(0, 3)):
            hurt[rng.randrange(min(len(hurt), rng.choice([30, 650, 10_000])))] ^= (
                1 << rng.randrange(8)
            )
        at = rng.randrange(len(hurt))
        yield bytes(
            hurt[:at]
            + rng.choice([b"", b"", rng.randbytes(3)])
            + hurt[at + rng.choice([0, 0, 7]) :]
        )


@pytest.mark.parametrize(
    "form", ["plain", "4:4:4", "4:2:2", "progressive", "gray", "RGB", "restarts", "CMYK"]
)
def test_all_readers_agree_on_damage(form, monkeypatch):
    """The header of our own, Pillow's, and the scaled gray decoder: the same pictures refused, by
    the same name.
    """
    rng, outcomes = random.Random(form), set()
    for data in damages(FORMS[form](small.image(48, 40)), 100, rng):
        (pixels, counts), (proof, probe_counts) = decode(data, 16), proven(data)
        with monkeypatch.context() as patch:
            patch.setattr(frames, "plain_jpeg_size", lambda data: None)
            slow, message = decode(data, 16)
        assert (pixels is None) == (proof is None) == (slow is None)
        assert counts == probe_counts == message
        assert pixels is None or np.array_equal(pixels, slow)
        outcomes.add(pixels is None)
    assert outcomes == {True, False}


@pytest.mark.parametrize("form", FORMS)
def test_plain_jpeg_needs_no_pillow(form, monkeypatch):
    data = FORMS[form](small.image())
    monkeypatch.setattr(
        frames.Image,
        "open",
        lambda *arguments, **named: (_ for _ in ()).throw(OSError("asked Pillow")),
    )
    plain = form not in ("PNG", "CMYK")
    assert (decode(data)[0] is not None) == plain == (proven(data)[0] is not None)


@pytest.mark.parametrize(
    "extra",
    [
        {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"},
        {"xmp": b"<x/>"},
        {"icc_profile": bytes(200)},
    ],
)
def test_images_with_an_orientation_are_read_by_pillow(extra):
    data = small.encode(small.image(), **extra)
    assert frames.plain_jpeg_size(data) is None
    assert np.array_equal(decode(data)[0], decode(small.encode(small.image()))[0])


def test_a_large_image_needs_no_more_memory_than_its_pixels(real_data, tmp_path):
    """6000 x 4000: 72 MB of pixels, the copy that Pillow resizes, and that is all."""
    (tmp_path / "calm.jpg").write_bytes(PHOTO)
    child = small.python(
        MEASURED, tmp_path / "calm.jpg", real_data / "nasty" / "images" / "big_6000x4000.jpg"
    )
    counts, rise = child.stdout.rsplit(" ", 1)
    assert counts == "{}", child.stderr
    assert int(rise) < 260


def test_fault_14_nasty_bombs_take_no_memory(real_data, tmp_path):
    (tmp_path / "calm.jpg").write_bytes(PHOTO)
    bombs = [
        real_data / "nasty" / "images" / name
        for name in ("bomb.gif", "bomb_20000x20000_1bit.png", "strip_4000x2.jpg", "zero_width.gif")
    ]
    child = small.python(MEASURED, tmp_path / "calm.jpg", *bombs)
    counts, rise = child.stdout.rsplit(" ", 1)
    assert counts == "{'frame.damaged': 3}", child.stderr
    assert int(rise) < 50
