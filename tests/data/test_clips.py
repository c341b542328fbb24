"""Video files: the frame of each second with any kind of time stamps, and damaged files."""

import io
import json
import os
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from types import ModuleType

import numpy as np
import pytest
import small
from PIL import Image

from wbdc.competitions import Source
from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import EnvironmentFault
from wbdc.core.findings import Findings
from wbdc.core.image_settings import ImageSettings
from wbdc.data import clips
from wbdc.data.archive import read_images
from wbdc.data.clips import one_frame_per_second, read_clip, rotate_upright
from wbdc.data.frame_sampling import sample_frames
from wbdc.data.frames import decode_frame, probe_image

av = pytest.importorskip("av")

BITS, WIDE, HIGH = 10, 8, 48  # a frame shows its number as so many black or white bars, so wide


def bars(number):
    """Draw frame `number`, dark in the lower half of a bar of its own at the right."""
    row = np.repeat([255 * (number >> bit & 1) for bit in range(BITS)], WIDE).astype(np.uint8)
    return np.repeat(np.tile(row, (HIGH, 1))[..., None], 3, 2)


def number(jpeg):
    """Read the number in a frame."""
    gray = np.asarray(Image.open(io.BytesIO(jpeg)).convert("L"))
    return sum(int(gray[HIGH // 2, WIDE * bit + WIDE // 2] > 127) << bit for bit in range(BITS))


def film(path, times, codec="mpeg4", last=0.1, ahead=0, frame=bars):
    """Write a clip whose frame i is shown from times[i] seconds on, the last one for `last`
    seconds, all in tenths. ahead: frames that look ahead.
    """
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = frame(0).shape[:2]
        stream.pix_fmt, stream.codec_context.time_base, stream.codec_context.max_b_frames = (
            "yuv420p",
            Fraction(1, 10),
            ahead,
        )
        packets = []
        for i, start in enumerate(times):
            picture = av.VideoFrame.from_ndarray(frame(i), format="rgb24")
            picture.pts, picture.time_base = round(start * 10), Fraction(1, 10)
            packets += stream.encode(picture)
        packets += stream.encode(None)
        max(packets, key=lambda packet: packet.pts).duration = round(last * 10)
        for packet in packets:
            container.mux(packet)
    return path


def evenly(count, rate=10):
    return [i / rate for i in range(count)]


def read(path, max_frames=32):
    """Return the frames of a clip and the findings."""
    findings = Findings()
    return read_clip(path, max_frames, findings), findings.counts


def read_numbers(path, max_frames=32):
    """Return the numbers in the frames of an undamaged clip."""
    encoded, counts = read(path, max_frames)
    assert not counts
    return [number(jpeg) for jpeg in encoded]


@pytest.mark.parametrize(
    ("ending", "codec", "ahead"),
    [
        ("mp4", "mpeg4", 2),
        ("mov", "mpeg4", 2),
        ("mkv", "mpeg4", 0),
        ("avi", "mpeg4", 0),
        ("avi", "libx264", 3),
        ("mp4", "libx264", 3),
        ("webm", "libvpx", 0),
    ],
)
def test_the_frame_of_each_second_is_read(tmp_path, ending, codec, ahead):
    """An AVI gives no presentation times: its frames count, whatever they lean on."""
    assert read_numbers(film(tmp_path / f"a.{ending}", evenly(35), codec, ahead=ahead)) == [
        0,
        10,
        20,
        30,
    ]


def longhand(frames):
    """What is shown at 0, 1, ... seconds: of the frames that began by then the last one; of two at
    that very moment the first.
    """
    read_frames = []
    for second in range(100):
        begun = [(start, -i) for i, (start, _, _) in enumerate(frames) if start <= second]
        if begun and second < max(frames[-1][0] + Fraction(1, 10**9), frames[-1][1]):
            latest = max(begun)[0]
            positions = [i for i, f in enumerate(frames) if f[0] == latest]
            read_frames.append(frames[positions[0] if latest == second else positions[-1]][2])
    return read_frames


@pytest.mark.parametrize("seed", range(30))
def test_the_frame_of_each_second_is_that_of_a_longhand_search(seed):
    rng = random.Random(seed)
    starts = sorted(Fraction(rng.randrange(120), 10) for _ in range(rng.choice([1, 2, 5, 30])))
    starts = [s - starts[0] for s in starts]
    frames = [(s, s + Fraction(rng.randrange(25), 10), i) for i, s in enumerate(starts)]
    assert list(one_frame_per_second(frames)) == longhand(frames)
    assert list(one_frame_per_second([])) == []


def test_variable_frame_rates_are_kept(tmp_path):
    """At 3 and 4 seconds frame 4 still stands; at 6 the last one, which lasts."""
    path = film(tmp_path / "a.mp4", [0, 0.3, 0.9, 1.0, 2.5, 4.8, 5.2], last=0.9)
    assert read_numbers(path) == [0, 3, 3, 4, 4, 5, 6]


def test_time_counts_from_the_first_frame(tmp_path):
    assert read_numbers(film(tmp_path / "a.mkv", [7.3 + t for t in evenly(25)])) == [0, 10, 20]


def test_a_clip_shorter_than_a_second_is_one_frame(tmp_path):
    assert (
        read_numbers(film(tmp_path / "a.mp4", evenly(3)))
        == [0]
        == read_numbers(film(tmp_path / "b.mp4", [0.0]))
    )


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    """50 seconds, two frames in each."""
    return film(tmp_path_factory.mktemp("long") / "a.mkv", evenly(100, 2))


@pytest.mark.parametrize("max_frames", [1, 8, 14, 31, 32])
def test_trap_01_sampled_seconds_are_centered_in_their_shares(long_clip, max_frames):
    assert read_numbers(long_clip, max_frames) == [2 * k for k in sample_frames(32, max_frames)]


def test_frames_after_32_seconds_are_not_read(long_clip, tmp_path):
    (tmp_path / "a.mkv").write_bytes(long_clip.read_bytes()[: long_clip.stat().st_size * 4 // 5])
    assert read_numbers(tmp_path / "a.mkv") == read_numbers(long_clip)


def test_trap_11_reading_twice_and_side_by_side_gives_equal_bytes(long_clip):
    once = read(long_clip, 9)
    with ThreadPoolExecutor(4) as pool:
        assert all(result == once for result in pool.map(read, [long_clip] * 8, [9] * 8))


QUARTERS = [
    (a, b, c, d)
    for a, b, c, d in np.ndindex(3, 3, 3, 3)
    if abs((a - 1) * (d - 1) - (b - 1) * (c - 1)) == 1
    and (a - 1) * (c - 1) == (b - 1) * (d - 1) == 0
]


@pytest.mark.parametrize("ones", QUARTERS)
def test_a_display_matrix_rotates_and_mirrors(ones):
    """Each pixel goes where (ax + cy, bx + dy) says, moved into the image."""
    a, b, c, d = (i - 1 for i in ones)
    picture = np.arange(2 * 3 * 3).reshape(2, 3, 3)
    places = {(a * x + c * y, b * x + d * y): picture[y, x] for y in range(2) for x in range(3)}
    left, top = min(x for x, _ in places), min(y for _, y in places)
    expected = np.zeros((3, 2, 3) if b else (2, 3, 3), int)
    for (x, y), pixel in places.items():
        expected[y - top, x - left] = pixel
    assert len(QUARTERS) == 8
    assert np.array_equal(
        rotate_upright(picture, [a << 16, b << 16, 0, c << 16, d << 16]), expected
    )


def test_rotated_clips_become_upright(tmp_path):
    data = film(
        tmp_path / "a.mp4",
        evenly(3),
        frame=lambda i: np.tile((np.arange(80) > 40)[:, None] * np.uint8(255), (48, 1, 3)),
    ).read_bytes()
    one, at = (1 << 16).to_bytes(4, "big"), data.index(b"tkhd") + 44
    assert data[at : at + 4] == one
    for matrix, brightest in (
        ((0, 1, -1, 0), "below"),
        ((0, -1, 1, 0), "above"),
        ((-1, 0, 0, -1), "left"),
        ((1, 0, 0, 1), "right"),
    ):
        a, b, c, d = ((v << 16 & 0xFFFFFFFF).to_bytes(4, "big") for v in matrix)
        (tmp_path / "b.mp4").write_bytes(data[:at] + a + b + bytes(4) + c + d + data[at + 20 :])
        (jpeg,), counts = read(tmp_path / "b.mp4")
        gray = np.asarray(Image.open(io.BytesIO(jpeg)).convert("L")).astype(float)
        halves = {
            "above": gray[: len(gray) // 2],
            "below": gray[len(gray) // 2 :],
            "left": gray[:, : gray.shape[1] // 2],
            "right": gray[:, gray.shape[1] // 2 :],
        }
        assert not counts
        assert max(halves, key=lambda side: halves[side].mean()) == brightest


def test_long_short_sides_are_scaled(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4", [0.0])
    for short, size in ((512, (80, 48)), (48, (80, 48)), (24, (40, 24)), (10, (16, 10))):
        monkeypatch.setattr(clips, "MAX_SHORT_SIDE_PIXELS", short)
        assert Image.open(io.BytesIO(read(path)[0][0])).size == size


def test_colors_do_not_change(tmp_path):
    for color in ((200, 40, 40), (40, 180, 60), (60, 60, 220), (128, 128, 128)):
        path = film(
            tmp_path / "a.mp4",
            [0.0],
            frame=lambda i, color=color: np.full((48, 80, 3), color, np.uint8),
        )
        assert (
            np.abs(np.asarray(Image.open(io.BytesIO(read(path)[0][0]))).astype(int) - color).max()
            <= 4
        )


def test_grays_are_not_darkened(tmp_path):
    """The quick conversion takes 1 to 2 of 255 from every pixel."""
    levels = np.arange(16, 241, 7)
    encoded, _ = read(
        film(
            tmp_path / "a.mkv",
            list(range(len(levels))),
            frame=lambda i: np.full((48, 80, 3), levels[i], np.uint8),
        )
    )
    read_as = [np.asarray(Image.open(io.BytesIO(jpeg))).mean() for jpeg in encoded]
    assert abs(np.mean(read_as - levels[: len(read_as)])) < 0.6


def test_clip_frames_are_decoded_like_archive_frames(tmp_path):
    findings = Findings()
    for jpeg in read_images(Source(film(tmp_path / "a.mp4", evenly(15))), 32, findings):
        picture = decode_frame(jpeg, ImageSettings(32, (0.5,) * 3, (0.2,) * 3), findings)
        assert picture.shape == (3, 32, 32)
        assert probe_image(jpeg, findings)[:2] == (BITS * WIDE, HIGH)
    assert not findings.counts


def sound(path):
    with av.open(path, "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        heard = av.AudioFrame.from_ndarray(
            np.zeros((1, 8000), np.float32), format="fltp", layout="mono"
        )
        heard.sample_rate = 8000
        for packet in [*stream.encode(heard), *stream.encode(None)]:
            container.mux(packet)


def changed(path, change):
    """Write a clip of five seconds, its bytes changed."""
    path.write_bytes(change(film(path, evenly(50)).read_bytes()))


STRANGE = {
    "sound alone": ("mp4", sound, 0, "archive.empty"),
    "no file": ("mp4", lambda p: None, 0, "archive.missing"),
    "a folder": ("mp4", lambda p: p.mkdir(), 0, "archive.broken"),
    "an empty file": ("webm", lambda p: p.touch(), 0, "archive.broken"),
    "an archive": (
        "avi",
        lambda p: small.pack(p, {"1.jpg": small.photos(1)[0]}),
        0,
        "archive.broken",
    ),
    "a playlist": (
        "mp4",
        lambda p: p.write_text(
            "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.mp4\n#EXT-X-ENDLIST\n"
        ),
        0,
        "archive.broken",
    ),
    "a list of files": (
        "mkv",
        lambda p: p.write_text("ffconcat version 1.0\nfile other.mp4\n"),
        0,
        "archive.broken",
    ),
    "no index": ("mp4", lambda p: changed(p, lambda data: data[:-200]), 0, "archive.broken"),
    "half a download": (
        "mkv",
        lambda p: changed(p, lambda data: data[: len(data) // 2]),
        2,
        "frame.unreadable",
    ),
    "half of it zeros": (
        "mkv",
        lambda p: changed(p, lambda data: data[: len(data) // 2] + bytes(len(data) // 2)),
        2,
        "frame.unreadable",
    ),
    "an unknown codec": (
        "mp4",
        lambda p: changed(p, lambda data: data.replace(b"mp4v", b"what").replace(b"esds", b"what")),
        0,
        "archive.broken",
    ),
}


@pytest.mark.parametrize("name", STRANGE)
def test_frames_before_a_fault_are_returned(tmp_path, name):
    ending, make, min_frames, code = STRANGE[name]
    film(tmp_path / "other.mp4", evenly(20))
    make(tmp_path / f"a.{ending}")
    encoded, counts = read(tmp_path / f"a.{ending}")
    assert counts == {code: 1}
    assert min_frames <= len(encoded) < max(5, min_frames + 1)
    assert [number(jpeg) for jpeg in encoded] == [10 * k for k in range(len(encoded))]


@pytest.mark.parametrize(
    ("limit", "allowed", "code"),
    [
        ("MAX_FILE_BYTES", 100, "archive.huge"),
        ("MAX_PIXELS", 1000, "archive.broken"),
        ("MAX_DECODED_FRAMES", 25, "frame.unreadable"),
    ],
)
def test_limits_are_kept(tmp_path, monkeypatch, limit, allowed, code):
    path = film(tmp_path / "a.mp4", evenly(60))
    monkeypatch.setattr(clips, limit, allowed)
    encoded, counts = read(path)
    assert counts == {code: 1}
    assert len(encoded) == (3 if limit == "MAX_DECODED_FRAMES" else 0)


@pytest.mark.parametrize("seed", range(4))
def test_fault_15_flipped_and_missing_bytes_are_never_raised(tmp_path, seed):
    """This found a stream without a decoder."""
    rng = random.Random(seed)
    whole = [
        film(tmp_path / f"a.{ending}", evenly(25), codec).read_bytes()
        for ending, codec in (
            ("mp4", "libx264"),
            ("mkv", "libx264"),
            ("avi", "mpeg4"),
            ("webm", "libvpx"),
        )
    ]
    for _ in range(50):
        kind = rng.randrange(4)
        data = bytearray(whole[kind][: rng.choice([None, rng.randrange(len(whole[kind]))])])
        for _ in range(rng.randrange(6) if data else 0):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path = tmp_path / f"b.{('mp4', 'mkv', 'avi', 'webm')[kind]}"
        path.write_bytes(data)
        encoded, counts = read(path)
        assert encoded or counts
        for jpeg in encoded:
            probe_image(
                jpeg, Findings()
            )  # a header may say that the film is 11,344 x 48 pixels: counted there


def test_trap_28_files_are_closed(tmp_path):
    path = film(tmp_path / "a.mkv", evenly(50))
    (tmp_path / "b.mkv").write_bytes(path.read_bytes()[:2000])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        read(path), read(tmp_path / "b.mkv")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("installed", [None, ModuleType("av")])
def test_without_a_recent_pyav_the_error_names_the_package(tmp_path, monkeypatch, installed):
    monkeypatch.setitem(sys.modules, "av", installed)
    with pytest.raises(EnvironmentFault, match=r"pip install 'wbdc\[video\]'"):
        read_images(Source(tmp_path / "a.mp4"), 8, Findings())


@pytest.fixture
def filmed_root(small_root):
    """The test split comes as clips: the first video in two formats, the second in capitals, the
    last not at all.
    """
    first, second, third, _ = small.ids("test")
    (small_root / "zip_frames" / "test").rename(small_root / "zip_frames" / "elsewhere")
    folder = small_root / "videos" / "test"
    folder.mkdir(parents=True)
    for i, name in enumerate((f"{first}.mkv", f"{first}.mp4", f"{second}.MP4", f"{third}.webm")):
        film(
            folder / name.lower(),
            evenly(10 * (i + 1)),
            "libvpx" if name.endswith("webm") else "mpeg4",
        ).rename(folder / name)
    (folder / "notes.txt").touch()
    return small_root


def test_a_split_may_come_as_clips(filmed_root):
    findings, contest, (first, second, third, last) = Findings(), WeChat2022(), small.ids("test")
    sources = [video.source for video in contest.videos(filmed_root, "test", findings)]
    assert [s.path.relative_to(filmed_root / "videos" / "test").name for s in sources] == [
        f"{first}.mkv",
        f"{second}.MP4",
        f"{third}.webm",
        f"{last}.mp4",
    ]
    assert [len(read_images(s, 32, findings)) for s in sources] == [1, 3, 4, 0]
    assert findings.counts == {"archive.missing": 1}
    listed = list(contest.frame_files(filmed_root, "test"))
    assert [(s.id, s.path) for s in listed] == [
        (first, f"{first}.mkv"),
        (first, f"{first}.mp4"),
        (second, f"{second}.MP4"),
        (third, f"{third}.webm"),
    ]
    assert all(s.size == (filmed_root / "videos" / "test" / s.path).stat().st_size for s in listed)


def test_archives_of_frames_are_preferred_to_clips(filmed_root):
    contest, name = WeChat2022(), small.ids("test")[0]
    (filmed_root / "videos" / "labeled").mkdir()
    assert all(
        v.source.path.suffix == ".zip" for v in contest.videos(filmed_root, "labeled", Findings())
    )
    (filmed_root / "zip_frames" / "elsewhere").rename(filmed_root / "zip_frames" / "test")
    assert contest.source(filmed_root, "test", name).path == small.archive(
        filmed_root, "test", name
    )


def test_a_root_may_hold_clips_alone(tmp_path):
    (tmp_path / "videos").mkdir()
    assert WeChat2022().frame_format(tmp_path) == "jpeg"
    assert not list(WeChat2022().frame_files(tmp_path, "test"))
    assert WeChat2022().source(tmp_path, "test", "1").path == tmp_path / "videos" / "test" / "1.mp4"
    (tmp_path / "videos" / "test").mkdir()
    (
        tmp_path / "videos" / "test" / "1.mov"
    ).touch()  # copied later: seen, since the folder is listed anew
    assert WeChat2022().source(tmp_path, "test", "1").path.suffix == ".mov"


def facts(real_data):
    return [
        fact | {"path": real_data / "clips" / fact["file"]}
        for fact in json.loads((real_data / "clips" / "clips.json").read_text())
    ]


@pytest.mark.slow
def test_every_real_clip(real_data):
    """A frame for each second that it lasts; only what is broken on purpose is counted."""
    for fact in facts(real_data):
        encoded, counts = read(fact["path"])
        assert counts == ({"frame.unreadable": 1} if fact["decode_error"] else {}), fact["file"]
        assert len(encoded) == -(-fact["decoded_frames"] // fact["fps"]), fact["file"]
        width, height = Image.open(io.BytesIO(encoded[0])).size
        assert min(width, height) == min(512, fact["width"], fact["height"])
        assert (width < height) == ("rotated" in fact["file"])


@pytest.mark.parametrize(
    "name",
    [
        "flipping_a_pancake.mkv",
        "stream-of-water.mp4",
        "asl_help.mkv",
        "decord_video_rotated_90.mov",
    ],
)
def test_real_frames_are_those_of_a_longhand_reader(real_data, name):
    """Every frame is decoded, found by its time and converted by PyAV's default conversion. Colors
    differ by no more than its coarser rounding.
    """
    with av.open(real_data / "clips" / name) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        ends = (frames[-1].pts + frames[-1].duration - frames[0].pts) * stream.time_base
        plain = [
            next(f for f in reversed(frames) if (f.pts - frames[0].pts) * stream.time_base <= k)
            for k in range(-int(-ends // 1))
        ]
    encoded, _ = read(real_data / "clips" / name)
    assert len(encoded) == len(plain)
    for jpeg, frame in zip(encoded, plain, strict=True):
        expected = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
        assert np.abs(np.asarray(Image.open(io.BytesIO(jpeg))).astype(int) - expected).mean() < 3
