"""Archives of frames: sampling over the whole video, time order, damaged and hostile files."""

import base64
import contextlib
import errno
import io
import json
import math
import os
import random
import warnings
import zipfile
import zlib
from itertools import pairwise

import numpy as np
import pytest
import small

from wbdc.competitions import Source
from wbdc.core.findings import Findings
from wbdc.data import archive
from wbdc.data.archive import natural_order, read_features, read_images
from wbdc.data.frame_sampling import sample_frames

ALL = [(n, k) for n in range(65) for k in range(1, 65)]


def test_trap_01_frames_are_sampled_from_the_whole_video():
    """The field's `range(0, n, n // k)[:k]` takes a prefix: of 15 frames for 8, the first 8."""
    for n, k in ALL:
        chosen = sample_frames(n, k)
        assert len(chosen) == min(n, k)
        assert all(0 <= i < n for i in chosen)
        assert all(a < b for a, b in pairwise(chosen))
        assert not n or chosen[-1] >= n - math.ceil(n / k)
        if n <= k:
            assert chosen == list(range(n))


def test_trap_01_sampled_frames_are_centered_in_their_shares():
    for n, k in ALL:
        if n > k:
            assert sample_frames(n, k) == [math.floor((i + 0.5) * n / k) for i in range(k)]


def test_trap_28_frames_are_sorted_in_natural_order():
    ordered = [
        "1.jpg",
        "01.jpg",
        "2.jpg",
        "0003.jpg",
        "10.jpg",
        "a1.jpg",
        "a1b2.jpg",
        "a2.jpg",
        "a10.jpg",
        "b/1.jpg",
        "b/10.jpg",
        "第2帧.jpg",
        "第10帧.jpg",
    ]
    for seed in range(20):
        assert [
            natural_order(n)
            for n in sorted(random.Random(seed).sample(ordered, len(ordered)), key=natural_order)
        ] == [natural_order(n) for n in ordered]
    sorted(
        ["", "1", "a", "1a", "a1", "٣", "²", "1" * 4000], key=natural_order
    )  # all can be compared


def read(path, max_frames=32):
    """Return the frames of an archive and the findings."""
    findings = Findings()
    return read_images(Source(path), max_frames, findings), findings.counts


PHOTOS = small.photos(12)
FRAMES = small.frames(PHOTOS)


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
@pytest.mark.parametrize("max_frames", [1, 5, 12, 32])
def test_frames_are_read_by_any_method(tmp_path, method, max_frames):
    shuffled = random.Random(0).sample(list(FRAMES.items()), 12)
    assert read(small.pack(tmp_path / "a.zip", shuffled, method), max_frames) == (
        [PHOTOS[i] for i in sample_frames(12, max_frames)],
        {"archive.order": 1},
    )


def test_trap_11_reading_twice_gives_equal_frames(tmp_path):
    path = small.pack(tmp_path / "a.zip", FRAMES)
    assert read(path, 5) == read(path, 5)


def test_at_most_32_frames_are_read(tmp_path):
    """So that what is stored, 32 frames, and what the judge reads, k of all, agree on which k."""
    path = small.pack(tmp_path / "a.zip", {f"{i:02}.jpg": bytes([i]) for i in range(60)})
    stored, _ = read(path)
    assert len(stored) == 32
    for max_frames in (1, 8, 14, 31):
        assert read(path, max_frames)[0] == [stored[i] for i in sample_frames(32, max_frames)]


def patched(path, what: bytes, by: bytes, count: int = -1):
    """Change bytes of a file."""
    data = path.read_bytes()
    assert what in data
    path.write_bytes(data.replace(what, by, count))


def encrypted(path):
    small.pack(path, FRAMES)
    with zipfile.ZipFile(path) as archive:
        offsets = [e.header_offset for e in archive.infolist()]
        data = bytearray(path.read_bytes())
        position = archive.start_dir
    for offset in offsets:
        data[offset + 6] |= 1
    for _ in offsets:
        data[position + 8] |= 1
        position += 46 + sum(
            int.from_bytes(data[position + i : position + i + 2], "little") for i in (28, 30, 32)
        )
    path.write_bytes(data)


def linked(path):
    entry = zipfile.ZipInfo("1.jpg")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(entry, "/etc/passwd")
        archive.writestr("2.jpg", PHOTOS[1])


def bad_crc(path):
    small.pack(path, FRAMES)
    patched(path, PHOTOS[1], PHOTOS[1][:-9] + b"x" + PHOTOS[1][-8:], 1)


STRANGE = {
    "no members": (lambda p: small.pack(p, {}), 0, {"archive.empty": 1}),
    "folders and texts": (
        lambda p: small.pack(p, {"a/": b"", "a/b.txt": b"x", "c.zip": b"PK"}),
        0,
        {"archive.empty": 1},
    ),
    "no file": (lambda p: None, 0, {"archive.missing": 1}),
    "an empty file": (lambda p: p.touch(), 0, {"archive.broken": 1}),
    "a folder": (lambda p: p.mkdir(), 0, {"archive.broken": 1}),
    "a picture": (lambda p: p.write_bytes(PHOTOS[0]), 0, {"archive.broken": 1}),
    "cut short": (
        lambda p: p.write_bytes(small.pack(p, FRAMES).read_bytes()[:-30]),
        0,
        {"archive.broken": 1},
    ),
    "bytes before": (
        lambda p: p.write_bytes(b"stub" * 9 + small.pack(p, FRAMES).read_bytes()),
        12,
        {"archive.order": 1},
    ),
    "in folders, with junk": (
        lambda p: small.pack(
            p,
            {
                "a/b/1.JPG": PHOTOS[0],
                "a/b/2.jpeg": PHOTOS[1],
                "__MACOSX/._1.jpg": b"x",
                ".DS_Store": b"x",
                "Thumbs.db": b"x",
            },
        ),
        2,
        {},
    ),
    "Windows separators": (lambda p: small.pack(p, {"a\\1.jpg": PHOTOS[0]}), 1, {}),
    "climbing out": (
        lambda p: small.pack(
            p, {"../../evil/1.jpg": PHOTOS[0], "/evil/2.jpg": PHOTOS[1], "C:/3.jpg": PHOTOS[2]}
        ),
        3,
        {"archive.escape": 3},
    ),
    "names twice": (
        lambda p: small.pack(p, [("1.jpg", PHOTOS[0]), ("2.jpg", PHOTOS[1]), ("1.jpg", PHOTOS[2])]),
        2,
        {"archive.twice": 1},
    ),
    "a link": (linked, 1, {"archive.link": 1}),
    "encrypted": (encrypted, 12, {"frame.unreadable": 12, "archive.order": 1}),
    "a bad checksum": (bad_crc, 12, {"frame.unreadable": 1, "archive.order": 1}),
    "an empty member": (
        lambda p: small.pack(p, {"1.jpg": b"", "2.jpg": PHOTOS[1]}),
        2,
        {"frame.unreadable": 1},
    ),
    "too many members": (
        lambda p: small.pack(p, {f"{i}.jpg": b"" for i in range(archive.MAX_MEMBERS + 1)}),
        0,
        {"archive.crowded": 1},
    ),
    "a control character": (
        lambda p: small.pack(p, {"\x1b[31m1.jpg": b""}),
        1,
        {"frame.unreadable": 1},
    ),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", STRANGE)
def test_fault_15_every_fault_is_counted_and_none_is_raised(tmp_path, name):
    make, count, findings = STRANGE[name]
    home = tmp_path / "deep" / "er"
    home.mkdir(parents=True)
    make(home / "a.zip")
    read_all, counts = read(home / "a.zip")
    assert (len(read_all), counts) == (count, findings)
    assert {p.name for p in tmp_path.rglob("*")} <= {
        "deep",
        "er",
        "a.zip",
    }  # nothing is ever extracted


def test_the_last_member_of_a_name_is_read(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = small.pack(
            tmp_path / "a.zip", [("1.jpg", PHOTOS[0]), ("2.jpg", PHOTOS[1]), ("1.jpg", PHOTOS[2])]
        )
    assert read(path)[0] == [PHOTOS[2], PHOTOS[1]]


def test_an_unreadable_member_keeps_its_position(tmp_path):
    bad_crc(tmp_path / "a.zip")
    assert read(tmp_path / "a.zip")[0] == [PHOTOS[0], b"", *PHOTOS[2:]]


def test_an_archive_beyond_the_limit_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_FILE_BYTES", 100)
    assert read(small.pack(tmp_path / "a.zip", FRAMES)) == ([], {"archive.huge": 1})


FOLDED = base64.b64decode(
    "QlpoOTFBWSZTWQ4J4t8BX45AAMAAAAggADCATUZCoCWpCoCXMUFZJlNZDgni3wFfjkAAwAAACCAAMIBNRkKgJakKgJcxQVkmU1kOCeLfAV+OQADAAAAIIAAwgE1GQqAlqQqAlzFBWSZTWQ4J4t8BX45AAMAAAAggADCATUZCoCWpCoCXF3JFOFCQWnK65Q=="
)


def bomb(path, raw: bytes, method: int, declared: int):
    """Write an archive of two frames; the first is `raw` and says that it expands to `declared`
    zeros.
    """
    small.pack(path, {"1.jpg": raw, "2.jpg": PHOTOS[1]})
    with zipfile.ZipFile(path) as archive:
        entry, start = archive.infolist()[0], archive.start_dir
    data = bytearray(path.read_bytes())
    for position, value, size in (
        (8, method, 2),
        (14, zlib.crc32(bytes(declared)), 4),
        (22, declared, 4),
    ):
        data[entry.header_offset + position : entry.header_offset + position + size] = data[
            start + position + 2 : start + position + 2 + size
        ] = value.to_bytes(size, "little")
    path.write_bytes(data)


MEASURED = """
import re, sys
from pathlib import Path
from wbdc.competitions import Source
from wbdc.core.findings import Findings
from wbdc.data.archive import read_features, read_images
def peak():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+)", status)[1]) // 1024
def read(path):
    found = Findings()
    kept = read_images(Source(Path(path)), 32, found)
    return [len(k) for k in kept], dict(found.counts)
read(sys.argv[1])
before = peak()
told = [read(path) for path in sys.argv[2:4]]
deflated = peak()
told.append(read(sys.argv[4]))
print(told, deflated - before, peak() - before, sep="\\n")
"""


def test_fault_14_a_bomb_costs_little_memory(tmp_path):
    """Honest or lying about its size, by deflate or by bzip2, of which 46 bytes are 45 MB: here 184
    MB.
    """
    calm = small.pack(tmp_path / "calm.zip", FRAMES)
    honest, lying, folded = (tmp_path / f"{n}.zip" for n in ("honest", "lying", "folded"))
    squeeze = zlib.compressobj(wbits=-15)
    zeros = squeeze.compress(bytes(65 * 2**20)) + squeeze.flush()
    bomb(honest, zeros, zipfile.ZIP_DEFLATED, 65 * 2**20)
    bomb(lying, zeros, zipfile.ZIP_DEFLATED, 1000)
    bomb(folded, FOLDED, zipfile.ZIP_BZIP2, 1000)
    child = small.python(MEASURED, calm, honest, lying, folded)
    message, *rises = child.stdout.splitlines()
    assert message == str(
        [([0, len(PHOTOS[1])], {"frame.bomb": 1}), *[([1000, len(PHOTOS[1])], {})] * 2]
    ), child.stderr
    deflated, bzipped = map(int, rises)
    assert deflated < 30
    assert bzipped < 150


def feats(path, members: dict[str, bytes], name: str = "a.npy", max_frames: int = 32):
    """Return one video's features from a shared archive, and the findings."""
    small.pack(path, members)
    findings = Findings()
    return read_features(Source(path, name), max_frames, findings), findings.counts


ROWS = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float16)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("max_frames", [1, 5, 32])
def test_features_are_read_as_float16(tmp_path, kind, max_frames):
    rows, counts = feats(
        tmp_path / "f.zip", {"a.npy": small.numbers(ROWS.astype(kind))}, max_frames=max_frames
    )
    assert rows.dtype == np.float16
    assert np.array_equal(rows, ROWS[sample_frames(12, max_frames)])
    assert not counts


def infinite(rows: np.ndarray, value: float) -> bytes:
    rows = rows.astype(np.float32)
    rows[3, 2] = value
    return small.numbers(rows)


def zipped_arrays() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=ROWS)
    return stream.getvalue()


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def signed(count: int) -> bytes:
    """A .npy header on which Python's parser raises MemoryError."""
    header = b"{'descr': '<f2', 'fortran_order': False, 'shape': (" + b"-" * count + b"12, 5), }\n"
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header


UNFIT = {
    "a pickle": small.numbers(np.array([Evil()], object)),
    "not a number": infinite(ROWS, float("nan")),
    "infinite": infinite(ROWS, -float("inf")),
    "infinite in float16": infinite(ROWS, 1e6),
    "one row": small.numbers(ROWS[0]),
    "three axes": small.numbers(ROWS[None]),
    "whole numbers": small.numbers(ROWS.astype(np.int32)),
    "text": small.numbers(np.array([["a"]])),
    "several arrays": zipped_arrays(),
    "half": small.numbers(ROWS)[:-7],
    "a header alone": small.numbers(ROWS)[:40],
    "a header that does not end": small.numbers(ROWS).replace(b"}", b"("),
    "a lying shape": small.numbers(ROWS).replace(b"(12, 5)", b"(9**9, 5)"),
    "a shape of terabytes": small.numbers(ROWS).replace(
        b"(12, 5), }      ", b"(999999999999,5)}"[:16]
    ),
    "a negative shape": small.numbers(ROWS).replace(b"(12, 5), }", b"(-1, 5), }"),
    "a header of 6,000 signs": signed(6000),
    "an unknown version": small.numbers(ROWS).replace(b"NUMPY\1", b"NUMPY\7"),
    "nothing": b"",
}


@pytest.mark.parametrize("name", UNFIT)
def test_fault_12_invalid_features_are_counted_and_nothing_is_unpickled(
    tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    rows, counts = feats(tmp_path / "f.zip", {"a.npy": UNFIT[name]})
    assert rows.shape == (0, 0)
    assert counts == {"archive.broken": 1}
    assert not (tmp_path / "evil").exists()


def test_features_of_any_layout(tmp_path):
    for rows in (np.asfortranarray(ROWS), ROWS[::2, ::-1], ROWS.astype(">f4"), ROWS[:0]):
        read, counts = feats(tmp_path / "f.zip", {"a.npy": small.numbers(rows)})
        assert np.array_equal(read, rows)
        assert not counts


SHORT = [
    MemoryError(),
    OSError(errno.ENOMEM, "no memory"),
    OSError(errno.EMFILE, "too many open files"),
]


@pytest.mark.parametrize("error", SHORT, ids=str)
@pytest.mark.parametrize("location", ["open", "read"])
def test_fault_23_too_little_memory_is_not_a_damaged_archive(
    tmp_path, monkeypatch, error, location
):
    def fail(*arguments, **named):
        raise error

    small.pack(tmp_path / "f.zip", {"a.npy": small.numbers(ROWS), "1.jpg": FRAMES["1.jpg"]})
    archive._open_shared_archive.cache_clear()
    if location == "open":
        monkeypatch.setattr(archive.zipfile, "ZipFile", fail)
    else:
        monkeypatch.setattr(archive.zipfile.ZipExtFile, "read", fail)
    for source, read_one in (
        (Source(tmp_path / "f.zip", "a.npy"), read_features),
        (Source(tmp_path / "f.zip"), read_images),
    ):
        findings = Findings()
        with pytest.raises(type(error)):
            read_one(source, 3, findings)
        assert not findings.counts


@pytest.mark.parametrize("short", [True, False])
def test_fault_23_a_dictionary_of_gigabytes_is_damage_and_too_little_memory_is_not(
    tmp_path, monkeypatch, short
):
    def fail(*arguments):
        raise MemoryError

    small.pack(tmp_path / "f.zip", {"1.jpg": FRAMES["1.jpg"]}, zipfile.ZIP_LZMA)
    monkeypatch.setattr(archive.zipfile.LZMADecompressor, "decompress", fail)
    monkeypatch.setattr(archive, "is_memory_short", lambda: short)
    with pytest.raises(MemoryError) if short else contextlib.nullcontext():
        assert read(tmp_path / "f.zip") == ([b""], {"frame.unreadable": 1})


def test_missing_features_are_counted(tmp_path):
    assert feats(tmp_path / "f.zip", {"b.npy": small.numbers(ROWS)})[1] == {"archive.missing": 1}
    findings = Findings()
    read_features(Source(tmp_path / "g.zip", "a.npy"), 3, findings)
    (tmp_path / "g.zip").write_bytes(b"PK")
    read_features(Source(tmp_path / "g.zip", "a.npy"), 3, findings)
    assert findings.counts == {"archive.missing": 1, "archive.broken": 1}


def test_features_of_a_replaced_archive_are_read_again(tmp_path):
    for rows in (ROWS, ROWS[:4], ROWS + 1):
        assert np.array_equal(feats(tmp_path / "f.zip", {"a.npy": small.numbers(rows)})[0], rows)


@pytest.mark.parametrize("seed", range(4))
def test_fault_15_flipped_bytes_are_never_raised(tmp_path, seed):
    """This found an IndexError of zipfile and a TokenError of numpy."""
    rng = random.Random(seed)
    archives = [
        small.pack(tmp_path / "a.zip", {"1.jpg": b"x" * 50, "2.jpg": b"y" * 50}, m).read_bytes()
        for m in (0, 8, 12, 14)
    ]
    for trial in range(60):
        data = bytearray(rng.choice(archives) if trial % 2 else small.numbers(ROWS))
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(min(len(data), 400))] = rng.choice(
                [0, 255, 40, 39, 76, rng.randrange(256)]
            )
        if trial % 2:
            (tmp_path / "b.zip").write_bytes(data)
            read(tmp_path / "b.zip")
        else:
            feats(tmp_path / f"{seed}-{trial}.zip", {"a.npy": bytes(data)})


FORKED = """
import os, random, sys
from pathlib import Path
import numpy as np
from wbdc.competitions import Source
from wbdc.core.findings import Findings
from wbdc.data.archive import read_features
def reads(seed, count):
    found, rng = Findings(), random.Random(seed)
    for i in (rng.randrange(200) for _ in range(count)):
        features = read_features(Source(Path(sys.argv[1]), f"{i}.npy"), 32, found)
        assert np.array_equal(features, np.full((3, 40), i, np.float16)), (i, found.report())
reads(0, 3)
children = []
for seed in range(4):
    if (child := os.fork()) == 0:
        try:
            reads(seed, 500)
        except BaseException as error:
            print(error, flush=True)
            os._exit(1)
        os._exit(0)
    children.append(child)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


def test_trap_28_a_shared_archive_is_opened_per_process(tmp_path):
    """Fault 16: after a fork two processes would share the position in one open file: four workers,
    2,000 random reads.
    """
    path = small.pack(
        tmp_path / "f.zip",
        {f"{i}.npy": small.numbers(np.full((3, 40), i, np.float16)) for i in range(200)},
    )
    child = small.python(FORKED, path)
    assert child.returncode == 0, child.stdout + child.stderr


def test_trap_28_archives_are_closed(tmp_path):
    path = small.pack(tmp_path / "a.zip", FRAMES)
    (tmp_path / "bad.zip").write_bytes(path.read_bytes()[:-30])
    shared = [small.pack(tmp_path / f"f{i}.zip", {"a.npy": small.numbers(ROWS)}) for i in range(8)]
    read_features(Source(shared[0], "a.npy"), 3, Findings())
    before = len(os.listdir("/proc/self/fd"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for _ in range(3):
            read(path, 3)
            read(tmp_path / "bad.zip")
            [
                read_features(Source(p, name), 3, Findings())
                for p in shared
                for name in ("a.npy", "b.npy")
            ]
    assert len(os.listdir("/proc/self/fd")) <= before + 4  # shared archives stay open, four at most


def test_every_nasty_archive(real_data, tmp_path):
    """error: counted; fine: every image read; never a crash, nothing written."""
    wrong, index = {}, json.loads((real_data / "nasty" / "nasty.json").read_text())
    entries = [e for e in index if e["file"].startswith("zips/")]
    for entry in entries:
        frames, counts = read(real_data / "nasty" / entry["file"])
        counts.pop("archive.order", None)
        fine = bool(frames) and all(frames) and not counts
        if (entry["verdict"] == "error" and not counts) or (
            entry["verdict"] == "fine" and not fine
        ):
            wrong[entry["file"]] = (len(frames), counts)
    assert len(entries) > 30
    assert wrong == {}
    assert not os.path.exists("/tmp/research_evil")


def test_frames_of_one_video_are_bounded_together(tmp_path, monkeypatch):
    monkeypatch.setattr("wbdc.data.archive.MAX_VIDEO_BYTES", 5000)
    findings = Findings()
    read = read_images(
        Source(small.pack(tmp_path / "v.zip", {f"{i}.jpg": bytes(2000) for i in range(4)})),
        32,
        findings,
    )
    assert [len(data) for data in read] == [2000, 2000, 0, 0]
    assert findings.report()["frame.bomb"]["count"] == 2


def test_a_long_list_of_members_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("wbdc.data.archive.MAX_DIRECTORY_BYTES", 1000)
    findings = Findings()
    path = small.pack(tmp_path / "v.zip", {f"{i:05}.jpg": b"x" for i in range(100)})
    monkeypatch.setattr("zipfile.ZipFile", None)
    assert read_images(Source(path), 32, findings) == []
    assert findings.report()["archive.crowded"]["count"] == 1
